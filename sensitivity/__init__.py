"""Which layers of a neural network stay out of INT8: measured, planned, exported and proved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sensitivity.tasks.base import EvaluateTask as EvaluateTask
    from sensitivity.tasks.base import Task as Task

__version__ = "0.1.0"
__all__ = ["EvaluateTask", "Task", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the command line starts without numpy.
    if name in ("EvaluateTask", "Task"):
        from sensitivity.tasks import base

        return getattr(base, name)
    raise AttributeError(f"module 'sensitivity' has no attribute {name!r}")
