"""What the outputs of a detector's ONNX file mean: told by their shapes, or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensitivity.config import DecodeName
from sensitivity.errors import TaskError
from sensitivity.tasks.detection_boxes import (
    Floats,
    Suppression,
    decode_chosen,
    decode_objectness,
    decode_queries,
    decode_raw,
    decode_ultralytics,
    decode_yolox,
)
from sensitivity.tasks.images import Size, shown_size, sides
from sensitivity.tasks.onnx_pixels import RGB_TO_ONE, Pixels, Scale

Shape = Sequence[int | None]
"""Sides of an output, None for one of any length."""


def decode_name(
    shapes: Sequence[Sequence[Any]], size: Size, classes: int, *, more: bool = False
) -> DecodeName:
    """What a detector's outputs mean, told by their shapes.

    more: coefficients of masks or key points follow the classes of ultralytics' YOLO. Raises
    TaskError where it is none of those known.
    """
    given = [[side if isinstance(side, int) else None for side in shape] for shape in shapes]
    found = None if more else _of_several(given, size, classes)
    if found is None and len(given[0]) == 3:
        _, rows, columns = given[0]
        found = (_with_more if more else _known_decode)(rows, columns, size, classes)
    if found is not None:
        return found
    raise TaskError(
        "Expected the file's outputs to be those of YOLOX without decoding or of YOLOv5 [n, "
        f"anchors, {5 + classes}], of ultralytics' YOLO [n, {4 + classes}, anchors], of its "
        "export with the choice of boxes [n, 300, 6], of its head without decoding, or of RT-DETR "
        f"[n, 300, {4 + classes}] for {classes} class{'es' if classes > 1 else ''}, got "
        f"{_listed(shapes)} at input size {shown_size(size)}; say which it is with --decode, or "
        "write a task file with a `decode` of your own, see docs/onnx.md."
    )


def _listed(shapes: Sequence[Sequence[Any]]) -> str:
    return " and ".join(str(list(shape)) for shape in shapes)


def _known_decode(
    rows: int | None, columns: int | None, size: Size, classes: int
) -> DecodeName | None:
    """What an output [n, rows, columns] means; None where it is none of those known."""
    is_rows_of_boxes = rows is not None and _cells(size, rows) is None
    if columns == 6 and is_rows_of_boxes:
        return "end2end"
    # With one class, six columns are those of end2end too: only the number of rows can tell.
    can_be_anchors = classes != 1 or rows is not None
    if columns == 5 + classes and can_be_anchors:
        return "yolov5" if _cells(size, rows) == 3 else "yolox"
    if columns == 4 + classes and is_rows_of_boxes:
        return "rtdetr"
    return "yolo" if rows == 4 + classes else None


def _of_several(shapes: Sequence[Shape], size: Size, classes: int) -> DecodeName | None:
    """What several outputs mean together; None where the first alone means something."""
    if len(shapes) > 1 and all(len(shape) == 4 for shape in shapes):
        # masks' prototypes are a map of their own beside boxes [n, rows, columns]
        return "raw"
    if len(shapes) != 2 or any(len(shape) != 3 for shape in shapes):
        return None
    (_, rows, columns), (_, other_rows, other_columns) = shapes
    if 4 in (columns, other_columns) and classes in (columns, other_columns):
        return None if _cells(size, rows) else "rtdetr"
    return "raw" if classes in (rows, other_rows) else None


def _with_more(
    rows: int | None, columns: int | None, size: Size, classes: int
) -> DecodeName | None:
    """The same for outputs of ultralytics with masks or key points behind the classes."""
    if columns is not None and _cells(size, columns) == 1:
        return "yolo"
    if rows is not None and rows > 4 + classes and columns is None:
        return "yolo"
    return "end2end" if columns is not None and columns > 6 else None


MEANINGS: Mapping[DecodeName, str] = {
    "yolo": "that of ultralytics' YOLO",
    "yolox": "that of YOLOX without decoding",
    "yolov5": "that of YOLOv5 or v7",
    "end2end": "chosen boxes (end2end: corners, confidence, class), not YOLOX",
    "raw": "that of ultralytics' YOLO without decoding",
    "rtdetr": "that of RT-DETR",
}


def reading(name: DecodeName, shapes: Sequence[Sequence[Any]]) -> str:
    """A sentence on what a detector's outputs were taken for."""
    return f"Its output {_listed(shapes)} was taken for {MEANINGS[name]}; --decode says otherwise."


def _cells(size: Size, anchors: int | None) -> int | None:
    """How many anchors each cell of a detector has, 1 or 3; None where so many anchors belong to no
    such detector."""
    height, width = sides(size)
    for strides in ((8, 16, 32), (8, 16, 32, 64)):
        cells = sum((height // step) * (width // step) for step in strides)
        if anchors in (cells, 3 * cells):
            return 1 if anchors == cells else 3
    return None


@dataclass(frozen=True)
class Decode:
    """Model outputs -> boxes and confidences, as `detection_task` wants it."""

    name: DecodeName
    size: Size
    classes: int

    def __call__(self, outputs: Any) -> tuple[Floats, Floats]:
        match self.name:
            case "yolox":
                return decode_yolox(outputs, self.size)
            case "yolov5":
                return decode_objectness(outputs)
            case "end2end":
                return decode_chosen(outputs, self.classes)
            case "raw":
                return decode_raw(outputs, self.size, self.classes)
            case "rtdetr":
                return decode_queries(outputs, self.size, self.classes)
        return decode_ultralytics(outputs, self.classes)

    @property
    def rule(self) -> Suppression:
        """Which boxes are reported: of a model that chooses them itself, all."""
        chooses = self.name in ("end2end", "rtdetr")
        return Suppression(iou=1.0) if chooses else Suppression()


PIXELS: Mapping[DecodeName, Pixels] = {
    "yolo": RGB_TO_ONE,
    "yolox": Pixels("bgr", Scale(255.0)),
    "yolov5": RGB_TO_ONE,
    "end2end": RGB_TO_ONE,
    "raw": RGB_TO_ONE,
    "rtdetr": RGB_TO_ONE,
}
"""What they are trained with."""
