"""Images with their ground-truth boxes, from COCO JSON or YOLO text files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sensitivity.errors import TaskError
from sensitivity.tasks.detection_images import image_size
from sensitivity.tasks.images import image_files


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image file and the boxes in it.

    boxes: float64[g, 4], x1 y1 x2 y2 in pixels of the image. classes: int64[g], index into the
    class names.
    crowd: bool[g], regions of many objects where detections are not judged.
    size: (width, height) that the labels were made for; None to take the image as it is shown (EXIF
    applied).
    """

    file: Path
    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    size: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """images: in the order of the labels. names: of the classes, in the order of the model's
    outputs."""

    images: tuple[LabelledImage, ...]
    names: tuple[str, ...]


def unlabelled(file: Path) -> LabelledImage:
    """An image of which only the pixels are wanted."""
    return LabelledImage(file, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))


def coco_images(annotations: Path, folder: Path) -> LabelledImages:
    """All images of a COCO instances file, also those without objects. Classes are numbered by
    rising category id.

    folder: where the images lie under their `file_name`. Raises TaskError where the file or an
    image is missing, or an annotation names an unknown image or category.
    """
    content = _read_json(annotations)
    categories = sorted(content["categories"], key=lambda category: category["id"])
    index = {category["id"]: number for number, category in enumerate(categories)}
    grouped: dict[Any, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in grouped or annotation["category_id"] not in index:
            raise TaskError(
                f"Expected every annotation of {annotations} to name an image and a category of "
                f"that file, got image {annotation['image_id']} and category "
                f"{annotation['category_id']}."
            )
        grouped[annotation["image_id"]].append(annotation)
    images = tuple(
        _coco_image(image, grouped[image["id"]], index, folder) for image in content["images"]
    )
    _require_files(images, folder)
    return LabelledImages(images, tuple(str(category["name"]) for category in categories))


def yolo_images(folder: Path, labels: Path, names: Sequence[str]) -> LabelledImages:
    """All images below `folder`, sorted by name, with the text files of the same relative name
    below `labels`.

    A line is `class x y width height` or `class x1 y1 x2 y2 ...` (an outline, reduced to its box),
    in fractions of the image. An image without a file holds no object; no file at all is a
    TaskError, as is a line that cannot be read.
    """
    files = image_files(folder)
    texts = [(labels / file.relative_to(folder)).with_suffix(".txt") for file in files]
    if not any(text.is_file() for text in texts):
        raise TaskError(
            f"Expected label files below {labels} for the {len(files)} images below {folder}, got "
            "none; YOLO data sets keep them in a folder `labels` beside `images`."
        )
    return LabelledImages(labelled_files(files, texts, len(names)), tuple(names))


def labelled_files(
    files: Sequence[Path], texts: Sequence[Path], classes: int
) -> tuple[LabelledImage, ...]:
    """Images with their YOLO text files, in this order. A text file that is not there means that
    nothing is shown."""
    return tuple(_yolo_image(file, text, classes) for file, text in zip(files, texts, strict=True))


def _read_json(annotations: Path) -> dict[str, Any]:
    try:
        content = json.loads(annotations.read_text())
    except FileNotFoundError:
        raise TaskError(f"Expected COCO annotations at {annotations}, got no such file.") from None
    except (OSError, ValueError) as error:
        raise TaskError(
            f"Expected COCO annotations at {annotations}, got a file that is not JSON: {error}."
        ) from error
    missing = {"images", "annotations", "categories"} - set(
        content if isinstance(content, dict) else ()
    )
    if missing:
        raise TaskError(
            f"Expected {annotations} to hold the COCO lists images, annotations and categories, "
            f"got none named {', '.join(sorted(missing))}."
        )
    return dict(content)


def _coco_image(
    image: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    index: Mapping[Any, int],
    folder: Path,
) -> LabelledImage:
    corners = _table([annotation["bbox"] for annotation in annotations])
    corners[:, 2:] += corners[:, :2]
    return LabelledImage(
        folder / image["file_name"],
        corners,
        np.array([index[annotation["category_id"]] for annotation in annotations], np.int64),
        np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], bool),
        (image["width"], image["height"]) if "width" in image and "height" in image else None,
    )


def _require_files(images: Sequence[LabelledImage], folder: Path) -> None:
    missing = [image.file.name for image in images if not image.file.is_file()]
    if missing:
        raise TaskError(
            f"Expected the {len(images)} annotated images below {folder}, got {len(missing)} "
            f"missing, first {missing[0]!r}; give the folder that holds them."
        )


def _yolo_image(file: Path, text: Path, classes: int) -> LabelledImage:
    lines = text.read_text().splitlines() if text.is_file() else []
    read = [
        _yolo_line(line, f"{text}:{number}", classes)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    boxes = _table([box for _, box in read])
    if read:
        boxes *= np.tile(image_size(file), 2)
    return LabelledImage(
        file, boxes, np.array([label for label, _ in read], np.int64), np.zeros(len(read), bool)
    )


def _yolo_line(line: str, where: str, classes: int) -> tuple[int, list[float]]:
    """(class, box as corners in fractions of the image)."""
    try:
        label, *numbers = (float(field) for field in line.split())
    except ValueError:
        raise TaskError(f"Expected numbers at {where}, got {line!r}.") from None
    if label not in range(classes):
        raise TaskError(
            f"Expected a class from 0 to {classes - 1} at {where}, got {label:g}; check the class "
            "names."
        )
    if len(numbers) == 4:
        x, y, width, height = numbers
        return int(label), [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    if len(numbers) < 6 or len(numbers) % 2:
        raise TaskError(
            f"Expected a class and 4 numbers, or a class and at least 3 points, at {where}, got "
            f"{line!r}."
        )
    x_points, y_points = numbers[0::2], numbers[1::2]
    return int(label), [min(x_points), min(y_points), max(x_points), max(y_points)]


def _table(boxes: ArrayLike) -> NDArray[np.float64]:
    return np.array(boxes, np.float64).reshape(-1, 4)
