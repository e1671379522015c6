"""The metadata that ultralytics writes into an ONNX file when it exports a model."""

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
"""Tasks of ultralytics that have a metric here."""


@dataclass(frozen=True)
class Exported:
    """What ultralytics' metadata says about a file.

    task: what the model does, one of `JUDGED`. Empty for a file that ultralytics did not write.
    names: the class names, in the order of the outputs.
    size: (height, width) in pixels for which the model was exported. None if it is not said.
    is_rtdetr: whether it is an RT-DETR, whose boxes are in fractions of the input.
    points: the number of key points, and the numbers of each.
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
        """What to read from the labels."""
        if self.task == "segment":
            return LabelForm("outlines")
        if self.task == "obb":
            return LabelForm("corners")
        if self.task == "pose":
            return LabelForm("keypoints", *self.points)
        return LabelForm()

    def part(self, size: Size, sigmas: tuple[float, ...], *, chosen: bool) -> Part | None:
        """Return the masks or key points that the model gives with each box; None if it gives boxes
        alone.

        size: side of the square input in pixels, or (height, width).
        sigmas: those of the data set's key points; empty for the usual ones.
        chosen: whether the model chooses its boxes itself.
        """
        classes = len(self.names)
        if self.task == "segment":
            return Masks(classes, size, chosen)
        if self.task == "pose":
            return KeyPoints(classes, *self.points, sigmas or usual_sigmas(*self.points), chosen)
        return None


def exported_by_ultralytics(metadata: Mapping[str, str], file: str) -> Exported:
    """Read the metadata of a file.

    file: the name of the file, for messages.
    Raises TaskError for a task that has no metric here.
    """
    names, size = _literal(metadata.get("names", "")), _literal(metadata.get("imgsz", ""))
    task = metadata.get("task", "")
    is_by_ultralytics = task and "stride" in metadata and isinstance(names, dict)
    if not is_by_ultralytics:
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
    """Return the value of a Python literal; None for text that is not one."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
