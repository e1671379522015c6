"""The part of `confirm` on which a search is made: its first samples, and more of them only if
these settle nothing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from sensitivity.measure.measurer import Measurer
from sensitivity.planners.greedy import GreedyPlanner
from sensitivity.records import Plan
from sensitivity.signals.soft import has_soft_drop
from sensitivity.stats.order import is_in_random_order
from sensitivity.tasks.base import Task, mean
from sensitivity.tasks.batches import as_numpy, batch_size

FIRST = 1000
"""Number of samples of the first part. `benchmarks/plan_search.py` shows what fewer cost: plans
that leave more units out."""

PLANNER = GreedyPlanner.name
"""The planner whose promise on a part was simulated."""

OTHER_PLANNER = "planner {} was not simulated on a part of it"

WORTH = 2
"""A part is used if all of `confirm` has at least this many times its samples."""


@dataclass(frozen=True)
class ConfirmPart:
    """The part of `confirm` that a search begins with.

    batches: number of batches; None for all of them.
    note: why all samples of a large split are used, one sentence; None if there is nothing to say.
    """

    batches: int | None
    note: str | None = None


def first_part(task: Task, planner: str = PLANNER) -> ConfirmPart:
    """Return the part of `confirm` that is large enough to choose a plan on.

    It is all of `confirm` if that is small, if the task has no soft drop, because counted answers
    of a part prove too little, if the first samples need not stand for all, or for another planner
    than greedy.
    """
    batches = task.data["confirm"]
    inputs, _ = next(iter(batches))
    size = batch_size(inputs)
    count = -(-FIRST // size)
    if count * WORTH > len(batches):
        return ConfirmPart(None)
    why = _why_whole(task, count) if planner == PLANNER else OTHER_PLANNER.format(planner)
    return ConfirmPart(count) if why is None else ConfirmPart(None, WHOLE.format(why))


def _why_whole(task: Task, count: int) -> str | None:
    """Return why the first `count` batches cannot stand for the whole split; None if they can."""
    if task.aggregate is not mean:
        return f"{task.metric} is not a mean over samples"
    if not has_soft_drop(task):
        return "the task has no soft drop, and counted answers of a part prove too little"
    targets = [targets for _, targets in islice(iter(task.data["confirm"]), count)]
    labels = _labels(targets)
    if labels is None:
        return "its targets are not one number for each sample, which would show their order"
    if not is_in_random_order(labels):
        return "its samples are in the order of their targets (shuffle them once to measure less)"
    return None


def _labels(targets: list[Any]) -> np.ndarray | None:
    """Return the targets as numbers [n]; None if they are not one number for each sample."""
    try:
        arrays = [as_numpy(batch) for batch in targets]
    except (TypeError, ValueError):
        return None
    if any(array.ndim != 1 or array.dtype.kind not in "biuf" for array in arrays):
        return None
    return np.concatenate(arrays)


def grow_part(measurer: Measurer) -> bool:
    """Use twice as much of `confirm`, or all of it where that is not much more; return False if all
    of it was in use."""
    if not measurer.uses_part("confirm"):
        return False
    whole, more = len(measurer.task.data["confirm"]), 2 * measurer.count("confirm")
    measurer.use_first("confirm", more if WORTH * more <= whole else whole)
    return True


def part_note(plan: Plan, measurer: Measurer) -> str | None:
    """Return a sentence about the part of `confirm` that a plan was chosen on; None if that was all
    of it."""
    if not measurer.uses_part("confirm"):
        return None
    share = measurer.count("confirm") / len(measurer.task.data["confirm"])
    return CHOSEN_ON.format(plan.metric.confirm.n, share)


CHOSEN_ON = (
    "The plan was chosen on the first {:,} samples of confirm, {:.0%} of them, which were enough; "
    "after a scan with --exact, plans use all of them."
)

WHOLE = "All of confirm was measured, because {}."
