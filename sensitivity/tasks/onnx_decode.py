"""What the outputs of a detector's ONNX file mean: told by their shapes, or by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sensitivity.config import DecodeName
from sensitivity.errors import TaskError
from sensitivity.tasks.detection_boxes import (
    Floats,
    Suppression,
    decode_boxes_and_classes,
    decode_chosen,
    decode_objectness,
    decode_queries,
    decode_raw,
    decode_ultralytics,
    decode_yolox,
)
from sensitivity.tasks.detection_labels import LabelledImages
from sensitivity.tasks.images import Size, shown_size, sides
from sensitivity.tasks.onnx_pixels import IMAGENET, RGB_TO_ONE, Pixels, Scale
from sensitivity.tasks.onnx_selected import AS_NAMED, Selected, decode_selected, selected

Shape = Sequence[int | None]
"""Sides of an output, None for one of any length."""


def decode_name(
    shapes: Sequence[Sequence[Any]], size: Size, classes: int, *, more: bool = False
) -> DecodeName:
    """Return what a detector's outputs mean, told by their shapes.

    more: coefficients of masks or key points follow the classes of ultralytics' YOLO. Raises
    TaskError where it is none of those known.
    """
    given = [list(map(_known_side, shape)) for shape in shapes]
    found = _with_more(given[0], size) if more else _decode_of(given, size, classes)
    if found is not None:
        return found
    raise TaskError(
        "Expected the file's outputs to be those of YOLOX without decoding or of YOLOv5 [n, "
        f"anchors, {5 + classes}], of ultralytics' YOLO [n, {4 + classes}, anchors], of its "
        "export with the choice of boxes [n, 300, 6], of its head without decoding, of YOLO-NAS "
        f"[n, anchors, 4] and [n, anchors, {classes}], or of RT-DETR [n, 300, {4 + classes}] for "
        f"{classes} class{'es' * (classes > 1)}, got "
        f"{_listed(shapes)} at input size {shown_size(size)}; say which it is with --decode, or "
        "write a task file with a `decode` of your own, see docs/onnx.md."
    )


def _known_side(side: Any) -> int | None:
    """Return a side of an output; None for one of any length."""
    return side if isinstance(side, int) else None


def _listed(shapes: Sequence[Sequence[Any]]) -> str:
    """Return the shapes of outputs, in words."""
    return " and ".join(str(list(shape)) for shape in shapes)


def _decode_of(shapes: Sequence[Shape], size: Size, classes: int) -> DecodeName | None:
    """Return what the outputs mean together, or else the first alone; None where it is none of
    those known."""
    together = _of_several(shapes, size, classes)
    if together is not None or len(shapes[0]) != 3:
        return together
    return _of_one(shapes[0], size, classes)


def _of_one(shape: Shape, size: Size, classes: int) -> DecodeName | None:
    """Return what an output [n, rows, columns] means; None where it is none of those known."""
    _, rows, columns = shape
    # Later lines win. With one class, six columns are those of end2end too: only the number of rows
    # can tell. With two, they are those of RT-DETR too.
    known: dict[tuple[int | None, int], DecodeName | None] = {
        (5 + classes, NO_CELLS): "yolox",
        (5 + classes, OPEN): "yolox",
        (4 + classes, NO_CELLS): "rtdetr",
        (6, NO_CELLS): "end2end",
        (6, OPEN): None,
        (5 + classes, 1): "yolox",
        (5 + classes, 3): "yolov5",
    }
    found = known.get((columns, _cells(size, rows)))
    if found is None and rows == 4 + classes:
        return "yolo"
    return found


def _of_several(shapes: Sequence[Shape], size: Size, classes: int) -> DecodeName | None:
    """Return what several outputs mean together; None where the first alone means something."""
    ranks = list(map(len, shapes))
    if len(ranks) > 1 and set(ranks) == {4}:
        return "raw"
    if ranks != [3, 3]:  # such as masks, whose prototypes are a map of their own
        return None
    _, rows, columns = map(set, zip(*shapes, strict=True))
    if columns == {4, classes}:
        has_queries = _cells(size, shapes[0][1]) == NO_CELLS
        if has_queries:
            return "rtdetr"
        return "corners"
    if 4 in columns and classes in rows:
        return "corners"
    if classes in rows:
        return "raw"
    return None


def _with_more(shape: Shape, size: Size) -> DecodeName | None:
    """Return the same for an output of ultralytics with masks or key points behind the classes."""
    if len(shape) != 3:
        return None
    is_open = _cells(size, shape[2]) in (1, OPEN)
    return "yolo" if is_open else "end2end"


MEANINGS: Mapping[DecodeName, str] = {
    "yolo": "that of ultralytics' YOLO",
    "yolox": "that of YOLOX without decoding",
    "yolov5": "that of YOLOv5 or v7",
    "corners": "that of YOLO-NAS or PP-YOLOE, corners and confidences apart",
    "end2end": "chosen boxes (end2end: corners, confidence, class), not YOLOX",
    "raw": "that of ultralytics' YOLO without decoding",
    "rtdetr": "that of RT-DETR",
    "ssd": "chosen boxes, labels from 1 and scores, as SSD gives them",
    "tensorflow": "chosen boxes, labels and scores of TensorFlow's detection API",
}


def reading(name: DecodeName, shapes: Sequence[Sequence[Any]]) -> str:
    """Return a sentence on what a detector's outputs were taken for."""
    return f"Its output {_listed(shapes)} was taken for {MEANINGS[name]}; --decode says otherwise."


NO_CELLS, OPEN = 0, -1
"""Of rows that are no anchors of a grid of cells, and of any number of rows."""


def _cells(size: Size, anchors: int | None) -> int:
    """Return how many anchors each cell of a detector has, 1 or 3; else `NO_CELLS` or `OPEN`."""
    height, width = sides(size)
    known: dict[int | None, int] = {None: OPEN}
    for strides in ((8, 16, 32), (8, 16, 32, 64)):
        cells = sum((height // step) * (width // step) for step in strides)
        known |= {cells: 1, 3 * cells: 3}
    return known.get(anchors, NO_CELLS)


@dataclass(frozen=True)
class Decode:
    """Model outputs -> boxes and confidences, as `detection_task` wants it.

    numbers: labels of the classes, for a model that gives labels. where: its outputs.
    """

    name: DecodeName
    size: Size
    classes: int
    numbers: tuple[int, ...] = ()
    where: Selected = AS_NAMED

    def __call__(self, outputs: Any) -> tuple[Floats, Floats]:
        size, classes = self.size, self.classes
        decoders: Mapping[DecodeName, Callable[[Any], tuple[Floats, Floats]]] = {
            "yolo": partial(decode_ultralytics, classes=classes),
            "yolox": partial(decode_yolox, size=size),
            "yolov5": decode_objectness,
            "corners": partial(decode_boxes_and_classes, classes=classes),
            "end2end": partial(decode_chosen, classes=classes),
            "raw": partial(decode_raw, size=size, classes=classes),
            "rtdetr": partial(decode_queries, size=size, classes=classes),
            **dict.fromkeys(SELECTING, self._selected),
        }
        return decoders[self.name](outputs)

    def _selected(self, outputs: Any) -> tuple[Floats, Floats]:
        return decode_selected(outputs, self.size, self.numbers, self.where)

    @property
    def selects(self) -> bool:
        """Whether the model gives as many boxes as it selects, in its own order."""
        return self.name in SELECTING

    @property
    def rule(self) -> Suppression:
        """Which boxes are reported: of a model that chooses them itself, all."""
        chooses = self.selects or self.name in ("end2end", "rtdetr")
        return Suppression(iou=1.0) if chooses else Suppression()


PIXELS: Mapping[DecodeName, Pixels] = {
    "yolo": RGB_TO_ONE,
    "yolox": Pixels("bgr", Scale(255.0)),
    "yolov5": RGB_TO_ONE,
    "corners": RGB_TO_ONE,
    "end2end": RGB_TO_ONE,
    "raw": RGB_TO_ONE,
    "rtdetr": RGB_TO_ONE,
    "ssd": Pixels(scale=IMAGENET),
    "tensorflow": Pixels(scale=Scale(255.0)),
}
"""What they are trained with."""

SELECTING: tuple[DecodeName, ...] = ("ssd", "tensorflow")
"""Those that give boxes, labels and scores apart."""

STRETCHED: tuple[DecodeName, ...] = ("rtdetr", *SELECTING)
"""Those that are validated on images that are stretched over the input."""


def told_by_names(names: Sequence[str]) -> DecodeName | None:
    """Return what outputs of these names mean; None where only their shapes can tell."""
    found = selected(names)
    return None if found is None else found.form


def meaning(name: DecodeName, size: Size, labels: LabelledImages, names: Sequence[str]) -> Decode:
    """Return how outputs of these names are decoded. labels: of the data set, whose classes the
    labels of a model stand for."""
    classes = len(labels.names)
    if name != "ssd" and name != "tensorflow":
        return Decode(name, size, classes)
    where = replace(selected(names) or Selected(name), form=name)
    numbers = labels.ids if name == "tensorflow" else ()
    return Decode(name, size, classes, numbers or tuple(range(1, classes + 1)), where)
