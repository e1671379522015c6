"""Images with their labelled objects, from COCO JSON or YOLO text files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sensitivity.errors import TaskError
from sensitivity.tasks.detection_boxes import areas
from sensitivity.tasks.detection_images import image_size
from sensitivity.tasks.images import image_files

BODY_SHARE = 0.53
"""The area of an object as a fraction of its box, where the labels do not say it. ultralytics uses
the same."""


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image file and its labelled objects.

    Coordinates and areas are in pixels of the image. `outlines`, `keypoints` and `corners` are None
    if they were not asked for.

    file: the image file.
    boxes: float64[g, 4], x1 y1 x2 y2.
    classes: int64[g], indices into the class names.
    crowd: bool[g], whether a box is a region of many objects, in which detections are not judged.
    size: (width, height) for which the labels were made. None takes the image as it is shown, with
        its EXIF orientation applied.
    outlines: for each object its polygons or its run lengths, as in COCO's `segmentation`.
    keypoints: float64[g, k, 3], x, y, and 0 where a point is not labelled.
    areas: float64[g], the areas of the objects as the labels say them, NaN for those of which they
        say none. None if they say no area at all, as YOLO text files.
    corners: float64[g, 4, 2], x and y of the corners of rotated boxes.
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


def labelled_areas(image: LabelledImage, share: float = 1.0) -> NDArray[np.float64]:
    """Return the areas of the objects in square pixels, float64[g].

    share: the area of an object as a fraction of its box, where the labels do not say it.
    """
    estimated = np.asarray(share * areas(image.boxes), np.float64)
    if image.areas is None:
        return estimated
    return np.where(np.isnan(image.areas), estimated, image.areas)


@dataclass(frozen=True)
class LabelForm:
    """What to read from labels.

    kind: "boxes"; "outlines", boxes with the outline of each object; "corners", the four corners of
        each rotated box; or "keypoints", boxes with key points.
    points: key points of an object.
    numbers: numbers of a key point; 2 for x and y, 3 if the third says whether it is labelled.
    """

    kind: Literal["boxes", "outlines", "corners", "keypoints"] = "boxes"
    points: int = 0
    numbers: int = 3


BOXES = LabelForm()


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """A data set of labelled images.

    images: in the order of the labels.
    names: the class names, in the order of the model's outputs.
    sigmas: the sigma of each key point; empty if the data set declares none.
    ids: the numbers of the classes, in the order of the names; empty if the data set has none of
        its own.
    """

    images: tuple[LabelledImage, ...]
    names: tuple[str, ...]
    sigmas: tuple[float, ...] = ()
    ids: tuple[int, ...] = ()


def unlabelled(file: Path) -> LabelledImage:
    """Return an image without labels, of which only the pixels are used."""
    return LabelledImage(file, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))


def coco_images(annotations: Path, folder: Path, form: LabelForm = BOXES) -> LabelledImages:
    """Return all images of a COCO instances or key-point file, including those without objects.

    Classes are numbered in the order of their category ids.

    annotations: the JSON file.
    folder: the folder that holds the images under their `file_name`.
    form: what to read from the annotations.
    Raises TaskError if the file or an image is missing, or if an annotation names an unknown image
    or category or lacks what `form` asks for.
    """
    content = _read_json(annotations)
    categories = sorted(content["categories"], key=lambda category: category["id"])
    index = {category["id"]: number for number, category in enumerate(categories)}
    by_image: dict[Any, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in by_image or annotation["category_id"] not in index:
            raise TaskError(
                f"Expected every annotation of {annotations} to name an image and a category of "
                f"that file, got image {annotation['image_id']} and category "
                f"{annotation['category_id']}."
            )
        by_image[annotation["image_id"]].append(annotation)
    images = []
    for image in content["images"]:
        own = by_image[image["id"]]
        boxes = _coco_image(image, own, index, folder)
        images.append(replace(boxes, **_coco_more(own, form, annotations)))
    _require_files(images, folder)
    names = tuple(str(category["name"]) for category in categories)
    return LabelledImages(tuple(images), names, ids=tuple(index))


def yolo_images(
    folder: Path, labels: Path, names: Sequence[str], form: LabelForm = BOXES
) -> LabelledImages:
    """Return all images below `folder`, sorted by name, with their YOLO text files.

    A line of a text file is `class x y width height`, or `class x1 y1 x2 y2 ...`, an outline whose
    bounding box is taken. With key points it is `class x y width height x1 y1 v1 ...`. All numbers
    after the class are fractions of the image, except whether a point is labelled. An image without
    a text file holds no object.

    labels: the folder that holds the text files, under the same relative names as the images.
    names: the class names, in the order of their numbers.
    form: what to read from the lines.
    Raises TaskError if there is no text file at all, or a line cannot be read.
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
    """Return labelled images from image files and their YOLO text files, in this order.

    texts: one for each image. A file that does not exist means that the image shows no object.
    classes: the number of classes.
    form: what to read from the lines.
    Raises TaskError if a line cannot be read.
    """
    pairs = zip(files, texts, strict=True)
    return tuple(_yolo_image(file, text, classes, form) for file, text in pairs)


def _read_json(annotations: Path) -> dict[str, Any]:
    try:
        content = json.loads(annotations.read_text())
    except FileNotFoundError:
        raise TaskError(f"Expected COCO annotations at {annotations}, got no such file.") from None
    except (OSError, ValueError) as error:
        raise TaskError(
            f"Expected COCO annotations at {annotations}, got a file that is not JSON: {error}."
        ) from error
    keys = set(content) if isinstance(content, dict) else set()
    missing = {"images", "annotations", "categories"} - keys
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
    boxes = _table([annotation["bbox"] for annotation in annotations])
    boxes[:, 2:] += boxes[:, :2]
    classes = [index[annotation["category_id"]] for annotation in annotations]
    crowd = [bool(annotation.get("iscrowd", 0)) for annotation in annotations]
    has_size = "width" in image and "height" in image
    return LabelledImage(
        folder / image["file_name"],
        boxes,
        np.array(classes, np.int64),
        np.array(crowd, bool),
        (image["width"], image["height"]) if has_size else None,
        areas=np.array([annotation.get("area") for annotation in annotations], np.float64),
    )


def _coco_more(
    annotations: Sequence[Mapping[str, Any]], form: LabelForm, file: Path
) -> dict[str, Any]:
    """Return the fields of a LabelledImage beside its boxes that `form` asks for."""
    if form.kind == "outlines":
        return {"outlines": _coco_outlines(annotations, file)}
    if form.kind == "keypoints":
        return {"keypoints": _coco_keypoints(annotations, form.points, file)}
    if form.kind == "corners":
        return {"corners": _coco_corners(annotations, file)}
    return {}


def _coco_outlines(annotations: Sequence[Mapping[str, Any]], file: Path) -> tuple[Any, ...]:
    for annotation in annotations:
        if not annotation.get("segmentation"):
            raise TaskError(
                f"Expected every annotation of {file} to hold a `segmentation` for a segmentation "
                f"model, got none in annotation {annotation.get('id')}; give the annotations that "
                "it is validated on."
            )
    return tuple(annotation["segmentation"] for annotation in annotations)


def _coco_corners(annotations: Sequence[Mapping[str, Any]], file: Path) -> NDArray[np.float64]:
    """Return float64[g, 4, 2]. Each outline must be one polygon of four points."""
    outlines = []
    for annotation in annotations:
        outline = annotation.get("segmentation")
        if not isinstance(outline, list) or [len(points) for points in outline] != [8]:
            raise TaskError(
                f"Expected every annotation of {file} to hold the four corners of a rotated box as "
                f"`segmentation`, one polygon of 8 numbers, got another in annotation "
                f"{annotation.get('id')}; give YOLO label files of lines "
                "class x1 y1 x2 y2 x3 y3 x4 y4."
            )
        outlines.append(outline)
    return np.array(outlines, np.float64).reshape(-1, 4, 2)


def _coco_keypoints(
    annotations: Sequence[Mapping[str, Any]], points: int, file: Path
) -> NDArray[np.float64]:
    """Return float64[g, points, 3]. Objects without key points get unlabelled ones."""
    unlabelled_points = [0.0] * (3 * points)
    rows = []
    for annotation in annotations:
        row = annotation.get("keypoints") or unlabelled_points
        if len(row) != 3 * points:
            raise TaskError(
                f"Expected {points} key points of x, y and visibility for each object in {file}, "
                f"as the model has, got {len(row)} numbers; give the data that it was trained for."
            )
        rows.append(row)
    return np.array(rows, np.float64).reshape(-1, points, 3)


def _require_files(images: Sequence[LabelledImage], folder: Path) -> None:
    missing = [image.file.name for image in images if not image.file.is_file()]
    if missing:
        raise TaskError(
            f"Expected the {len(images)} annotated images below {folder}, got {len(missing)} "
            f"missing, first {missing[0]!r}; give the folder that holds them."
        )


class _Line(NamedTuple):
    """A line of a YOLO text file, in fractions of the image.

    label: the class index.
    box: x1 y1 x2 y2.
    more: the points of an outline, or the numbers of key points. Empty for a box alone.
    """

    label: int
    box: list[float]
    more: list[float]


def _yolo_image(file: Path, text: Path, classes: int, form: LabelForm) -> LabelledImage:
    lines = _yolo_lines(text, classes, form)
    boxes = _table([line.box for line in lines])
    # The size of an image without objects is not needed, so its file is not read.
    size = np.array(image_size(file) if lines else (1, 1), np.float64)
    boxes *= np.tile(size, 2)
    labels = np.array([line.label for line in lines], np.int64)
    image = LabelledImage(file, boxes, labels, np.zeros(len(lines), bool))
    more = [line.more for line in lines]
    if form.kind == "outlines":
        return replace(image, outlines=tuple(_in_pixels(points, size) for points in more))
    if form.kind == "corners":
        corners = np.array(more, np.float64).reshape(-1, 4, 2) * size
        return replace(image, corners=corners)
    if form.kind == "keypoints":
        return replace(image, keypoints=_yolo_keypoints(more, form, size))
    return image


def _yolo_lines(text: Path, classes: int, form: LabelForm) -> list[_Line]:
    """Return the lines of a text file that are not blank; none if there is no such file."""
    if not text.is_file():
        return []
    lines = enumerate(text.read_text().splitlines(), 1)
    return [
        _yolo_line(line, f"{text}:{number}", classes, form)
        for number, line in lines
        if line.strip()
    ]


def _in_pixels(points: list[float], size: NDArray[np.float64]) -> list[list[float]]:
    """Return an outline in COCO's form: a list of one polygon x1 y1 x2 y2 ..., in pixels."""
    return [(np.array(points).reshape(-1, 2) * size).ravel().tolist()]


def _yolo_keypoints(
    rows: list[list[float]], form: LabelForm, size: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return float64[g, k, 3]. A point of two numbers is labelled if neither is below 0."""
    points = np.array(rows, np.float64).reshape(-1, form.points, form.numbers)
    positions = points[..., :2]
    labelled = points[..., 2:3]
    if form.numbers == 2:
        labelled = np.all(positions >= 0, axis=-1, keepdims=True).astype(np.float64)
    return np.concatenate([positions * size, labelled], axis=-1)


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
            "after the class; give the data that it was trained for."
        )
    return _Line(label, _corners(box), more)


def _corners(box: list[float]) -> list[float]:
    """Return x1 y1 x2 y2 of a box given as centre and size."""
    x, y, width, height = box
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def _table(boxes: ArrayLike) -> NDArray[np.float64]:
    """Return [g, 4], also for no boxes."""
    return np.array(boxes, np.float64).reshape(-1, 4)
