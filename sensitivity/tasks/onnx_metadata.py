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
    """task: what the model does, one of `JUDGED`. names: of the classes, in the order of the
    outputs. size: (height, width) it was exported for, in pixels. is_rtdetr: an RT-DETR, whose
    boxes are parts of the input."""

    task: str
    names: tuple[str, ...]
    size: tuple[int, int] | None
    is_rtdetr: bool = False


def exported_by_ultralytics(metadata: Mapping[str, str], file: str) -> Exported | None:
    """What the metadata says; None for a file that ultralytics did not write.

    file: its name, for messages. Raises TaskError for a model that is judged in no way here.
    """
    task, names = metadata.get("task"), _names(_literal(metadata.get("names")))
    if task is None or not names or "stride" not in metadata:
        return None
    if task not in JUDGED:
        raise TaskError(
            f"Expected {file} to be a model of ultralytics for {', '.join(JUDGED)}, got one for "
            f"{task} in its metadata; write a task file with a `score` of your own, see "
            "docs/onnx.md."
        )
    is_rtdetr = metadata.get("head", "").startswith("RTDETR")
    return Exported(task, names, _size(_literal(metadata.get("imgsz"))), is_rtdetr)


def _literal(text: str | None) -> Any:
    try:
        return ast.literal_eval(text or "None")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _names(found: Any) -> tuple[str, ...]:
    if isinstance(found, Mapping) and set(found) == set(range(len(found))):
        return tuple(str(found[number]) for number in range(len(found)))
    return tuple(map(str, found)) if isinstance(found, (list, tuple)) else ()


def _size(found: Any) -> tuple[int, int] | None:
    sides = [found, found] if isinstance(found, int) else found
    is_size = isinstance(sides, (list, tuple)) and len(sides) == 2
    if is_size and all(isinstance(side, int) and side > 0 for side in sides):
        return sides[0], sides[1]
    return None
