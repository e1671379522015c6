"""Plans for another target from the measurements of an earlier search, without loading a task."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sensitivity.config import (
    target_of,
)
from sensitivity.journal.journal import task_of
from sensitivity.records import (
    Plan,
    Target,
)
from sensitivity.run_dir import RunDir, RunInfo
from sensitivity.search.frontier import (
    Frontier,
    replanned,
)
from sensitivity.steps.plan_files import (
    SearchSettings,
    search_choices,
    still_recalibrated,
    write_plan,
    write_search,
)
from sensitivity.steps.recalibrate import FILE as RECALIBRATION
from sensitivity.steps.recalibrate import (
    Recalibration,
    in_force,
)
from sensitivity.tasks.load import TaskLike, same_task, task_digest


def replan(
    run_dir: RunDir, settings: SearchSettings, user_task: TaskLike | None = None
) -> Plan | None:
    """Choose a plan for another target from the measurements of an earlier search of the same kind,
    without loading a task.

    user_task: the task; None for the run's own. A task in no file cannot have been changed by
        anybody.
    Returns None if there was no such search, if the task has changed since, or if no measured set
    meets the target.
    """
    searches = [each for place in run_dir.plans() if (each := _search_of(place, settings))]
    if not searches:
        return None
    info = run_dir.info()
    if user_task is None and not info.in_python:
        user_task = run_dir.reference()
    if user_task is not None and not same_task(task_of(run_dir.journal), task_digest(user_task)):
        return None
    target = target_of(settings, info.full_scale)
    for search in searches:
        chosen = _taken_from(search, target, info)
        if chosen is not None:
            write_search(run_dir, chosen, search.frontier, search.values)
            if search.ranges is not None:
                run_dir.write(RECALIBRATION, search.ranges)
            return write_plan(run_dir, chosen)
    return None


@dataclass(frozen=True)
class Search:
    """What an earlier search left.

    plan: the last one taken from it.
    values: float[1 + points, m], see `confirm_values`.
    ranges: ranges tried in it; None if it kept those of the model.
    """

    plan: Plan
    frontier: Frontier
    values: np.ndarray
    ranges: Recalibration | None


def _search_of(run_dir: RunDir, settings: SearchSettings) -> Search | None:
    """Return the search for a plan if it was of the same kind and left everything that another
    target needs."""
    earlier = run_dir.read_if_there("plan.json", Plan)
    frontier = run_dir.read_if_there("frontier.json", Frontier)
    if earlier is None or frontier is None or frontier.search != search_choices(settings):
        return None
    if not frontier.points or not run_dir.file("frontier.npz").exists():
        return None
    values = run_dir.read_values("frontier.npz")
    if len(values) != 1 + len(frontier.points):
        return None
    return Search(earlier, frontier, values, in_force(run_dir, earlier))


def _taken_from(search: Search, target: Target, info: RunInfo) -> Plan | None:
    chosen = replanned(
        search.plan, search.frontier, search.values, target, info.units, info.quantizers
    )
    if chosen is None or search.ranges is None:
        return chosen and replace(chosen, recalibrated=())
    return replace(chosen, recalibrated=still_recalibrated(search.ranges, chosen))
