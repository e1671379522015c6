"""What ultralytics writes into the metadata of an ONNX file that it exports."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sensitivity.errors import TaskError
from sensitivity.tasks.detection_keypoints import KeyPoints, usual_sigmas
from sensitivity.tasks.detection_labels import LabelForm
from sensitivity.tasks.detection_masks import Masks
from sensitivity.tasks.detection_parts import Part
from sensitivity.tasks.images import Size

JUDGED = ("detect", "segment", "pose", "obb", "classify")
"""Tasks of ultralytics that are judged here."""


@dataclass(frozen=True)
class Exported:
    """What ultralytics says of a file; without a task for a file that it did not write.

    task: what the model does, one of `JUDGED`. names: of the classes, in the order of the outputs.
    size: (height, width) it was exported for, in pixels. is_rtdetr: an RT-DETR, whose boxes are
    parts of the input. points: how many key points it gives, and numbers of each.
    """

    task: str = ""
    names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    is_rtdetr: bool = False
    points: tuple[int, int] = (0, 0)

    @property
    def has_more(self) -> bool:
        """Whether masks, key points or angles follow the classes."""
        return self.task in ("segment", "pose", "obb")

    @property
    def form(self) -> LabelForm:
        """What is wanted of labels."""
        if self.task == "segment":
            return LabelForm("outlines")
        if self.task == "obb":
            return LabelForm("corners")
        if self.task == "pose":
            return LabelForm("keypoints", *self.points)
        return LabelForm()

    def part(self, size: Size, *, chosen: bool) -> Part | None:
        """What it gives with each box, which is judged too. size: of the input. chosen: it gives
        the boxes that it chooses."""
        classes = len(self.names)
        if self.task == "segment":
            return Masks(classes, size, chosen)
        if self.task == "pose":
            return KeyPoints(classes, *self.points, usual_sigmas(*self.points), chosen)
        return None


def exported_by_ultralytics(metadata: Mapping[str, str], file: str) -> Exported:
    """What the metadata of a file says.

    file: its name, for messages. Raises TaskError for a model that is judged in no way here.
    """
    names, size = _literal(metadata.get("names", "")), _literal(metadata.get("imgsz", ""))
    task = metadata.get("task", "")
    if not (task and "stride" in metadata and isinstance(names, dict)):
        return Exported()
    if task not in JUDGED:
        raise TaskError(
            f"Expected {file} to be a model of ultralytics for {', '.join(JUDGED)}, got one for "
            f"{task} in its metadata; write a task file with a `score` of your own, see "
            "docs/onnx.md."
        )
    points = _literal(metadata.get("kpt_shape", ""))
    if task == "pose" and not isinstance(points, list | tuple):
        raise TaskError(
            f"Expected {file} to say in its metadata how many key points it gives (kpt_shape, as "
            "in [17, 3]), got nothing; export it again with ultralytics."
        )
    return Exported(
        task,
        tuple(str(names[number]) for number in sorted(names)),
        tuple(size) if isinstance(size, list) else None,
        metadata.get("head", "").startswith("RTDETR"),
        tuple(points) if task == "pose" else (0, 0),
    )


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
