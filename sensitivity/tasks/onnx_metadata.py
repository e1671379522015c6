"""What ultralytics writes into the metadata of an ONNX file that it exports."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sensitivity.errors import TaskError

JUDGED = ("detect", "segment", "pose", "classify")
"""Tasks of ultralytics that are judged here; of masks and key points only the boxes."""


@dataclass(frozen=True)
class Exported:
    """What ultralytics says of a file; without a task for a file that it did not write.

    task: what the model does, one of `JUDGED`. names: of the classes, in the order of the outputs.
    size: (height, width) it was exported for, in pixels. is_rtdetr: an RT-DETR, whose boxes are
    parts of the input.
    """

    task: str = ""
    names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    is_rtdetr: bool = False

    @property
    def has_more(self) -> bool:
        """Whether masks or key points follow the classes."""
        return self.task in ("segment", "pose")


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
    return Exported(
        task,
        tuple(str(names[number]) for number in sorted(names)),
        tuple(size) if isinstance(size, list) else None,
        metadata.get("head", "").startswith("RTDETR"),
    )


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
