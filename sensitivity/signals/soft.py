"""Soft drop: what float itself expects to lose by a variant's other answers. It needs no labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from sensitivity.errors import TaskError
from sensitivity.records import Scores
from sensitivity.tasks.base import Fittable, Soft, Task, mean
from sensitivity.tasks.batches import scores_of
from sensitivity.tasks.fingerprint import function_digest


def has_soft_drop(task: Task) -> bool:
    """Return whether the task says what float expects to lose, and its metric is a mean over single
    samples."""
    return task.soft is not None and task.aggregate is mean


def soft_name(soft: Soft | Fittable) -> str:
    """Return the name that tells these soft drops, in a journal, from those of another function."""
    return f"soft {function_digest(soft)[:8]}"


def soft_drop(soft: Soft, float_outputs: Any, outputs: Any, size: int) -> Scores:
    """Return the soft drops of these samples, float64[size].

    soft: the task's function.

    Raises TaskError if the function fails, or does not return one finite number for each sample.
    """
    try:
        drops = scores_of(soft(float_outputs, outputs))
    except Exception as error:
        raise TaskError(
            f"Expected task.soft to return one number for each sample, got {error!r}; it is given "
            "the outputs of the float model and those of a quantized one."
        ) from error
    if drops.shape != (size,) or not np.isfinite(drops).all():
        raise TaskError(
            f"Expected task.soft to return one finite number for each of {size} samples, got an "
            f"array of shape {drops.shape}; return what is lost in the unit of the score, 0 where "
            "the answer is the same."
        )
    return drops
