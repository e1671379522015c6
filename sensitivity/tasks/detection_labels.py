"""Images with what is to be found in them, from COCO JSON or YOLO text files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sensitivity.errors import TaskError
from sensitivity.tasks.detection_images import image_size
from sensitivity.tasks.images import image_files

BODY_SHARE = 0.53
"""The area of an object as a share of its box, where labels do not say it; as ultralytics does."""


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image file and the boxes in it.

    boxes: float64[g, 4], x1 y1 x2 y2 in pixels of the image. classes: int64[g], index into the
    class names.
    crowd: bool[g], regions of many objects where detections are not judged.
    size: (width, height) that the labels were made for; None to take the image as it is shown (EXIF
    applied).
    outlines: for each object polygons in pixels of the image, or run lengths, as COCO has them in
    `segmentation`. keypoints: float64[g, k, 3], x y in pixels of the image, and 0 where a point is
    not labelled. areas: float64[g] of the objects in square pixels. corners: float64[g, 4, 2], x y
    in pixels of the image, of rotated boxes. Each is None where it was not asked for.
    """

    file: Path
    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    size: tuple[int, int] | None = None
    outlines: tuple[Any, ...] | None = None
    keypoints: NDArray[np.float64] | None = None
    areas: NDArray[np.float64] | None = None
    corners: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class LabelForm:
    """What is wanted of labels.

    kind: "boxes"; "outlines", boxes with the outline of each object; "corners", the four of each
    rotated box; or "keypoints", boxes with `points` key points of `numbers` numbers each: x, y and,
    as a third, whether it is labelled.
    """

    kind: Literal["boxes", "outlines", "corners", "keypoints"] = "boxes"
    points: int = 0
    numbers: int = 3


BOXES = LabelForm()


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """images: in the order of the labels. names: of the classes, in the order of the model's
    outputs."""

    images: tuple[LabelledImage, ...]
    names: tuple[str, ...]


def unlabelled(file: Path) -> LabelledImage:
    """An image of which only the pixels are wanted."""
    return LabelledImage(file, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))


def coco_images(annotations: Path, folder: Path, form: LabelForm = BOXES) -> LabelledImages:
    """All images of a COCO instances or key-point file, also those without objects. Classes are
    numbered by rising category id.

    folder: where the images lie under their `file_name`. Raises TaskError where the file or an
    image is missing, an annotation names an unknown image or category, or lacks what is wanted.
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
        replace(
            _coco_image(image, grouped[image["id"]], index, folder),
            **_coco_more(grouped[image["id"]], form, annotations),
        )
        for image in content["images"]
    )
    _require_files(images, folder)
    return LabelledImages(images, tuple(str(category["name"]) for category in categories))


def yolo_images(
    folder: Path, labels: Path, names: Sequence[str], form: LabelForm = BOXES
) -> LabelledImages:
    """All images below `folder`, sorted by name, with the text files of the same relative name
    below `labels`.

    A line is `class x y width height` or `class x1 y1 x2 y2 ...` (an outline, whose box is taken),
    in fractions of the image; with key points `class x y width height x1 y1 v1 ...`. An image
    without a file holds no object; no file at all is a TaskError, as is a line that cannot be read.
    """
    files = image_files(folder)
    texts = [(labels / file.relative_to(folder)).with_suffix(".txt") for file in files]
    if not any(text.is_file() for text in texts):
        raise TaskError(
            f"Expected label files below {labels} for the {len(files)} images below {folder}, got "
            "none; YOLO data sets keep them in a folder `labels` beside `images`."
        )
    return LabelledImages(labelled_files(files, texts, len(names), form), tuple(names))


def labelled_files(
    files: Sequence[Path], texts: Sequence[Path], classes: int, form: LabelForm = BOXES
) -> tuple[LabelledImage, ...]:
    """Images with their YOLO text files, in this order. A text file that is not there means that
    nothing is shown."""
    return tuple(
        _yolo_image(file, text, classes, form) for file, text in zip(files, texts, strict=True)
    )


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


def _coco_more(
    annotations: Sequence[Mapping[str, Any]], form: LabelForm, file: Path
) -> dict[str, Any]:
    """Fields of a LabelledImage beside its boxes."""
    if form.kind == "outlines":
        missing = [each.get("id") for each in annotations if not each.get("segmentation")]
        if missing:
            raise TaskError(
                f"Expected every annotation of {file} to hold a `segmentation` for a segmentation "
                f"model, got none in annotation {missing[0]}; give the annotations that it is "
                "validated on."
            )
        return {"outlines": tuple(each["segmentation"] for each in annotations)}
    if form.kind == "keypoints":
        return _coco_keypoints(annotations, form.points, file)
    if form.kind == "corners":
        return {"corners": _coco_corners(annotations, file)}
    return {}


def _coco_corners(annotations: Sequence[Mapping[str, Any]], file: Path) -> NDArray[np.float64]:
    """float64[g, 4, 2]: each outline must be one polygon of four points."""
    given = [each.get("segmentation") for each in annotations]
    for each, outline in zip(annotations, given, strict=True):
        if not isinstance(outline, list) or [len(points) for points in outline] != [8]:
            raise TaskError(
                f"Expected every annotation of {file} to hold the four corners of a rotated box as "
                f"`segmentation`, one polygon of 8 numbers, got another in annotation "
                f"{each.get('id')}; give YOLO label files of lines class x1 y1 x2 y2 x3 y3 x4 y4."
            )
    return np.array(given, np.float64).reshape(-1, 4, 2)


def _coco_keypoints(
    annotations: Sequence[Mapping[str, Any]], points: int, file: Path
) -> dict[str, Any]:
    nothing = [0.0] * (3 * points)
    rows = [each.get("keypoints") or nothing for each in annotations]
    wrong = [len(row) for row in rows if len(row) != len(nothing)]
    if wrong:
        raise TaskError(
            f"Expected {points} key points of x, y and visibility for each object in {file}, as "
            f"the model has, got {wrong[0]} numbers; give the data that it was trained for."
        )
    given = [each.get("area") for each in annotations]
    areas = [
        BODY_SHARE * each["bbox"][2] * each["bbox"][3] if area is None else float(area)
        for each, area in zip(annotations, given, strict=True)
    ]
    return {
        "keypoints": np.array(rows, np.float64).reshape(-1, points, 3),
        "areas": np.array(areas, np.float64),
    }


def _require_files(images: Sequence[LabelledImage], folder: Path) -> None:
    missing = [image.file.name for image in images if not image.file.is_file()]
    if missing:
        raise TaskError(
            f"Expected the {len(images)} annotated images below {folder}, got {len(missing)} "
            f"missing, first {missing[0]!r}; give the folder that holds them."
        )


class _Line(NamedTuple):
    """A line of a YOLO text file, in fractions of the image. box: its corners. more: the points of
    an outline, or numbers of key points."""

    label: int
    box: list[float]
    more: list[float]


def _yolo_image(file: Path, text: Path, classes: int, form: LabelForm) -> LabelledImage:
    lines = text.read_text().splitlines() if text.is_file() else []
    read = [
        _yolo_line(line, f"{text}:{number}", classes, form)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    boxes = _table([line.box for line in read])
    size = np.array(image_size(file) if read else (1, 1), np.float64)
    boxes *= np.tile(size, 2)
    labels = np.array([line.label for line in read], np.int64)
    image = LabelledImage(file, boxes, labels, np.zeros(len(read), bool))
    more = [line.more for line in read]
    if form.kind == "outlines":
        return replace(image, outlines=tuple(_in_pixels(points, size) for points in more))
    if form.kind == "corners":
        corners = np.array(more, np.float64).reshape(-1, 4, 2) * size
        return replace(image, corners=corners)
    if form.kind == "keypoints":
        areas = BODY_SHARE * (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return replace(image, keypoints=_yolo_keypoints(more, form, size), areas=areas)
    return image


def _in_pixels(points: list[float], size: NDArray[np.float64]) -> list[list[float]]:
    """An outline as COCO has it: a list of its only polygon x1 y1 x2 y2 ..., in pixels."""
    return [(np.array(points).reshape(-1, 2) * size).ravel().tolist()]


def _yolo_keypoints(
    rows: list[list[float]], form: LabelForm, size: NDArray[np.float64]
) -> NDArray[np.float64]:
    """float64[g, k, 3]. Points of two numbers are labelled where neither is below 0."""
    given = np.array(rows, np.float64).reshape(-1, form.points, form.numbers)
    places = given[..., :2]
    labelled = given[..., 2:3]
    if form.numbers == 2:
        labelled = np.all(places >= 0, axis=-1, keepdims=True).astype(np.float64)
    return np.concatenate([places * size, labelled], axis=-1)


def _yolo_line(line: str, where: str, classes: int, form: LabelForm) -> _Line:
    try:
        label, *numbers = (float(field) for field in line.split())
    except ValueError:
        raise TaskError(f"Expected numbers at {where}, got {line!r}.") from None
    if label not in range(classes):
        raise TaskError(
            f"Expected a class from 0 to {classes - 1} at {where}, got {label:g}; check the class "
            "names."
        )
    if form.kind == "keypoints":
        return _keypoint_line(int(label), numbers, where, form)
    if form.kind == "corners" and len(numbers) != 8:
        raise TaskError(
            f"Expected a class and the 8 numbers of four corners at {where}, got {line!r}; give "
            "the labels of rotated boxes, lines class x1 y1 x2 y2 x3 y3 x4 y4."
        )
    if len(numbers) == 4 and form.kind == "boxes":
        return _Line(int(label), _corners(numbers), [])
    if len(numbers) < 6 or len(numbers) % 2:
        also = "a class and 4 numbers, or " if form.kind == "boxes" else ""
        raise TaskError(f"Expected {also}a class and at least 3 points, at {where}, got {line!r}.")
    x_points, y_points = numbers[0::2], numbers[1::2]
    box = [min(x_points), min(y_points), max(x_points), max(y_points)]
    return _Line(int(label), box, numbers)


def _keypoint_line(label: int, numbers: list[float], where: str, form: LabelForm) -> _Line:
    box, more = numbers[:4], numbers[4:]
    if len(more) != form.points * form.numbers:
        raise TaskError(
            f"Expected a class, 4 numbers of the box and {form.points} key points of "
            f"{form.numbers} numbers at {where}, as the model has, got {len(numbers)} numbers "
            "behind the class; give the data that it was trained for."
        )
    return _Line(label, _corners(box), more)


def _corners(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def _table(boxes: ArrayLike) -> NDArray[np.float64]:
    return np.array(boxes, np.float64).reshape(-1, 4)
