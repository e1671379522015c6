"""What float itself expects to lose by a variant's other answers: needs no labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from sensitivity.errors import TaskError
from sensitivity.records import Scores
from sensitivity.tasks.base import Task, mean
from sensitivity.tasks.batches import scores_of
from sensitivity.tasks.fingerprint import function_digest


def has_soft_drop(task: Task) -> bool:
    """Whether the task says what float expects to lose, and its metric is a mean of what is lost
    by single samples."""
    return task.soft is not None and task.aggregate is mean


def soft_name(task: Task) -> str:
    """What tells the task's soft drops, in a journal, from those of another function."""
    return f"soft {function_digest(task.soft)[:8]}"


def soft_drop(task: Task, float_outputs: Any, outputs: Any, size: int) -> Scores:
    """Float64[size]: the task's soft drops of these samples.

    Raises TaskError where the task's function fails, or returns other than one finite number for
    each sample.
    """
    assert task.soft is not None, "asked for only where `has_soft_drop`"
    try:
        found = scores_of(task.soft(float_outputs, outputs))
    except Exception as error:
        raise TaskError(
            f"Expected task.soft to return one number for each sample, got {error!r}; it is given "
            "the outputs of the float model and those of a quantized one."
        ) from error
    if found.shape != (size,) or not np.isfinite(found).all():
        raise TaskError(
            f"Expected task.soft to return one finite number for each of {size} samples, got an "
            f"array of shape {found.shape}; return what is lost in the unit of the score, 0 where "
            "the answer is the same."
        )
    return found
