"""Decide which layers of a neural network stay out of INT8, and export and verify the result.

    import sensitivity as sv

    run = sv.run(task, out="runs/my_model", max_drop="1pt")  # or "my_task.py:task"
    run.to_frame()                                           # one row per layer
    with run.apply(model):                                   # with the plan's layers left out
        ...

The names in `__all__` are stable, see docs/python.md. Everything else may change from one version
to the next.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from sensitivity.distribution import warn_if_overwritten

if TYPE_CHECKING:
    from sensitivity.errors import SensitivityError as SensitivityError
    from sensitivity.tasks.base import EvaluateTask as EvaluateTask
    from sensitivity.tasks.base import Task as Task
    from sensitivity.verbs import bench as bench
    from sensitivity.verbs import check as check
    from sensitivity.verbs import compare as compare
    from sensitivity.verbs import export as export
    from sensitivity.verbs import plan as plan
    from sensitivity.verbs import report as report
    from sensitivity.verbs import run as run
    from sensitivity.verbs import scan as scan

__version__ = "0.1.0"

_PLACES = {
    "SensitivityError": "errors",
    "EvaluateTask": "tasks.base",
    "Task": "tasks.base",
    **dict.fromkeys(
        ("run", "scan", "plan", "export", "bench", "report", "compare", "check"), "verbs"
    ),
}
"""Public name -> the module that has it, imported when it is asked for: the command line starts
without numpy."""

__all__ = ["__version__", *_PLACES]

warn_if_overwritten(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'sensitivity' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sensitivity.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
