"""Soft drop: what float itself expects to lose by a variant's other answers. It needs no labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sensitivity.errors import TaskError
from sensitivity.records import Scores
from sensitivity.tasks.base import (
    Condenses,
    Fittable,
    Soft,
    StandsForMetric,
    Task,
    TellsTies,
    mean,
)
from sensitivity.tasks.batches import scores_of
from sensitivity.tasks.fingerprint import function_digest


@dataclass(frozen=True)
class Labelled:
    """Float's outputs and the targets of labelled samples, one of each for a batch.

    samples: number of samples.
    """

    outputs: Sequence[Any]
    targets: Sequence[Any]
    samples: int


def has_soft_drop(task: Task) -> bool:
    """Return whether the task says what float expects to lose of its metric."""
    soft: object = task.soft
    if isinstance(soft, StandsForMetric):
        return soft.stands_for(task.aggregate)
    return soft is not None and task.aggregate is mean


def soft_name(soft: Soft | Fittable) -> str:
    """Return the name that tells these soft drops, in a journal, from those of another function."""
    return f"soft {function_digest(soft)[:8]}"


def soft_drop(soft: Soft, float_outputs: Any, outputs: Any, size: int) -> Scores:
    """Return the soft drops of these samples, float64[size], or their records if the soft drop
    `StandsForMetric`, float64[size, k].

    soft: the task's function.

    Raises TaskError if the function fails, or does not return one finite number for each sample.
    """
    drops: Scores = _called(lambda *both: scores_of(soft(*both)), float_outputs, outputs)
    shape = (size, *drops.shape[1:]) if isinstance(soft, StandsForMetric) else (size,)
    if drops.shape != shape or not np.isfinite(drops).all():
        raise TaskError(
            f"Expected task.soft to return one finite number for each of {size} samples, got an "
            f"array of shape {drops.shape}; return what is lost in the unit of the score, 0 where "
            "the answer is the same."
        )
    return drops


def condensed(soft: Condenses, float_outputs: Any) -> Any:
    """Return what the soft drop needs of the float model's outputs of a batch.

    soft: the task's function.

    Raises TaskError if it fails.
    """
    return _called(soft.condensed, float_outputs)


def _called(function: Callable[..., Any], *outputs: Any) -> Any:
    """Return the function's result. Raises TaskError if it fails."""
    try:
        return function(*outputs)
    except Exception as error:
        raise TaskError(
            f"Expected task.soft to return one number for each sample, got {error!r}; it is given "
            "the outputs of the float model and those of a quantized one."
        ) from error


def ties_of(soft: TellsTies, labelled: Labelled, full_scale: float) -> tuple[Scores, Scores]:
    """Return what float's close second answers lose, counted and believed, both float64[n].

    soft: the task's function.
    full_scale: the largest loss of a sample.

    Raises TaskError if the function fails, or returns something else.
    """
    try:
        found = soft.ties(labelled.outputs, labelled.targets)
        losses = [np.asarray(values, np.float64) for values in found]
        counted, believed = losses
    except Exception as error:
        raise TaskError(
            "Expected ties of task.soft to return two arrays, what close answers lose by labels "
            f"and by float's belief, got {error!r}; it is given lists of outputs and targets."
        ) from error
    is_of_samples = counted.shape == believed.shape == (labelled.samples,)
    largest = np.abs(np.concatenate([one.ravel() for one in losses])).max(initial=0.0)
    if not is_of_samples or not largest <= full_scale:  # not for NaN either
        raise TaskError(
            "Expected ties of task.soft to return two arrays of one loss for each of the "
            f"{labelled.samples} samples, of at most {full_scale:g}, got shapes {counted.shape} "
            f"and {believed.shape} with losses up to {largest:g}; return 0 where float is sure."
        )
    return counted, believed
