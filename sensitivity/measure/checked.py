"""Checks of what a task's own functions return, with one sentence for each mistake."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import numpy as np

from sensitivity.errors import SensitivityError, TaskError
from sensitivity.records import Scores
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import scores_of


def checked_scores(task: Task, output: Any, targets: Any, size: int, where: str) -> Scores:
    """Return the task's scores of one batch, float64.

    size: number of samples of the batch.
    where: the batch, as messages name it.

    Raises TaskError if the user's function fails or returns anything else.
    """
    try:
        scores = scores_of(task.score(output, targets))
    except Exception as error:
        raise user_error("task.score", where, error) from error
    if scores.ndim == 0 or len(scores) != size:
        got = "a single number" if scores.ndim == 0 else f"{len(scores)} scores"
        raise TaskError(
            f"Expected task.score to return one score for each of the {size} samples{where}, got "
            f"{got}; return an array whose first axis is the sample."
        )
    if not np.isfinite(scores).all():
        bad = int(np.argwhere(~np.isfinite(scores))[0][0])
        raise TaskError(
            f"Expected task.score to return finite scores{where}, got {scores[bad]} for sample "
            f"{bad}; check the metric on this sample."
        )
    return scores


def check_values(scores: Scores, before: tuple[int, ...], where: str) -> None:
    """Raise TaskError if samples have another number of values than earlier ones, which could not
    be joined.

    before: shape of the values of one earlier sample.
    """
    if scores.shape[1:] != before:
        raise TaskError(
            f"Expected task.score to return as many values for each sample{where} as before, got "
            f"shape {list(scores.shape[1:])} and {list(before)} before; pad them to one shape."
        )


def user_error(what: str, where: str, error: Exception) -> SensitivityError:
    """Return an error of one sentence for an exception from the user's own code, with the place
    where it was raised."""
    if isinstance(error, SensitivityError):
        return error
    message = " ".join(str(error).split())[:300]
    return TaskError(
        f"Expected {what} to return{where}, got {type(error).__name__}: {message}{_place(error)}."
    )


def _place(error: Exception) -> str:
    """Return the last line of the user's own code that an exception passed through; "" if it passed
    through none."""
    own = str(Path(__file__).parents[1])
    every = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in every if not frame.filename.startswith(own)]
    users = [frame for frame in frames if "site-packages" not in frame.filename]
    if not frames:
        return ""
    last = (users or frames)[-1]
    return f" ({last.filename}:{last.lineno})"
