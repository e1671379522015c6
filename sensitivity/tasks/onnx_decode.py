"""Decodes the outputs of a detector's ONNX file, by their shapes, by their names, or as the user
says."""

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
"""Length of each axis of an output; None for an axis of any length."""


def decode_name(
    shapes: Sequence[Sequence[Any]], size: Size, classes: int, *, more: bool = False
) -> DecodeName:
    """Return how a detector's outputs are decoded, by their shapes.

    shapes: of all outputs.
    size: side of the square input in pixels, or (height, width).
    classes: the number of classes.
    more: whether mask coefficients or key points follow the classes of ultralytics' YOLO.
    Raises TaskError if the shapes fit no known detector.
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
    """Return the length of an axis; None if it may have any length."""
    return side if isinstance(side, int) else None


def _listed(shapes: Sequence[Sequence[Any]]) -> str:
    """Return the shapes of outputs, for messages."""
    return " and ".join(str(list(shape)) for shape in shapes)


def _decode_of(shapes: Sequence[Shape], size: Size, classes: int) -> DecodeName | None:
    """Return how all outputs are decoded together, or else the first alone; None if the shapes fit
    no known detector."""
    together = _of_several(shapes, size, classes)
    if together is not None or len(shapes[0]) != 3:
        return together
    return _of_one(shapes[0], size, classes)


def _of_one(shape: Shape, size: Size, classes: int) -> DecodeName | None:
    """Return how one output [n, rows, columns] is decoded; None if it fits no known detector."""
    _, rows, columns = shape
    # Later lines replace earlier ones with the same key. With one class, six columns may also be
    # those of end2end, and only the number of rows can tell. With two classes they may also be
    # those of RT-DETR.
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
    """Return how several outputs are decoded together; None if only the first is to be decoded."""
    ranks = list(map(len, shapes))
    if len(ranks) > 1 and set(ranks) == {4}:
        return "raw"
    if ranks != [3, 3]:  # For example a segmentation model, whose second output is prototypes.
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
    """Return how an output of ultralytics with mask coefficients or key points after the classes
    is decoded; None if it is not one."""
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
    """Return a sentence that says how a detector's outputs were understood."""
    return f"Its output {_listed(shapes)} was taken for {MEANINGS[name]}; --decode says otherwise."


NO_CELLS, OPEN = 0, -1
"""Results of `_cells` for rows that are not the anchors of a grid of cells, and for any number of
rows."""


def _cells(size: Size, anchors: int | None) -> int:
    """Return how many anchors each cell of a detector has: 1 or 3, or else `NO_CELLS` or `OPEN`.

    anchors: the number of rows; None for any number.
    """
    height, width = sides(size)
    known: dict[int | None, int] = {None: OPEN}
    for strides in ((8, 16, 32), (8, 16, 32, 64)):
        cells = sum((height // step) * (width // step) for step in strides)
        known |= {cells: 1, 3 * cells: 3}
    return known.get(anchors, NO_CELLS)


@dataclass(frozen=True)
class Decode:
    """Turns model outputs into boxes and confidences, as the `decode` of `detection_task`.

    name: the form of the outputs.
    size: side of the square input in pixels, or (height, width).
    classes: the number of classes.
    numbers: the label of each class, for a model that gives labels.
    where: which outputs hold boxes, labels and scores, for such a model.
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
        """Whether the model gives the boxes that it selects, of any number and in its own order."""
        return self.name in SELECTING

    @property
    def rule(self) -> Suppression:
        """Which candidates become detections. No box suppresses another if the model chooses its
        boxes itself."""
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
"""The pixels with which detectors of each form are usually trained."""

SELECTING: tuple[DecodeName, ...] = ("ssd", "tensorflow")
"""Forms with boxes, labels and scores in outputs of their own."""

STRETCHED: tuple[DecodeName, ...] = ("rtdetr", *SELECTING)
"""Forms of detectors that are validated on images stretched over the input."""


def decode_of_names(names: Sequence[str]) -> DecodeName | None:
    """Return how outputs of these names are decoded; None if only their shapes can tell."""
    outputs = selected(names)
    return None if outputs is None else outputs.form


def meaning(name: DecodeName, size: Size, labels: LabelledImages, names: Sequence[str]) -> Decode:
    """Return the decoder of a detector's outputs.

    name: the form of the outputs.
    labels: those of the data set, for whose classes the labels of the model stand.
    names: the names of the outputs.
    """
    classes = len(labels.names)
    if name != "ssd" and name != "tensorflow":
        return Decode(name, size, classes)
    where = replace(selected(names) or Selected(name), form=name)
    numbers = labels.ids if name == "tensorflow" else ()
    return Decode(name, size, classes, numbers or tuple(range(1, classes + 1)), where)
