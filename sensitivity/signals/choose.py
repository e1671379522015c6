"""Returns a signal that compares outputs, by its name."""

from __future__ import annotations

from sensitivity.registry import load
from sensitivity.signals.base import Signal
from sensitivity.signals.boxes import boxes_signal
from sensitivity.tasks.base import EvaluateTask, Task


def distortion_signal(name: str, task: Task | EvaluateTask) -> Signal:
    """Return the signal of this name for a task.

    Raises TaskError for "boxes" if the task is not a detector's, NamesError for an unknown name.
    """
    if name == "boxes":
        return boxes_signal(task)
    signal: Signal = load("signals", name)
    return signal
