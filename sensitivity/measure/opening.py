"""What a worker is told, so that it opens the same task."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensitivity.config import WorkerChoices
from sensitivity.errors import SensitivityError
from sensitivity.executors.base import Crew, Start
from sensitivity.executors.choose import executor_of
from sensitivity.seeds import current_seed
from sensitivity.tasks.load import Given, split_reference

OPENS = "sensitivity.worker:opened_worker"


@dataclass(frozen=True)
class Measures:
    """What a run measures on. head: of its journal, which a worker must find too. residuals:
    whether skip connections have quantizers. memory: bytes for values kept for replay, of all
    workers together; None takes a quarter of what is free. gpus: of each worker on a cluster.
    threads: of torch in the process that leads; None where it does not compute."""

    head: Mapping[str, Any]
    residuals: bool = False
    memory: int | None = None
    gpus: int = 0
    threads: int | None = None


@dataclass(frozen=True)
class Opening:
    """place: the task's file, absolute, and near: the same from the folder of the process that
    leads, for machines where it is elsewhere. shared: how many workers share the memory. threads:
    of torch once the task is opened; while it is, there are as many as in the process that leads,
    since several add in another order. None leaves them."""

    place: str
    near: str
    measures: Measures
    seed: int
    shared: int
    threads: int | None


def crew_for(choices: WorkerChoices, given: Given, measures: Measures) -> Crew:
    """Return the workers that the settings ask for, which open this task when there is work.

    Raises SensitivityError for a task that is in no file, MissingPackage without Ray.
    """
    if not isinstance(given, str):
        raise SensitivityError(
            "Expected a task in a file for more than one process, each of which opens it, got one "
            "made in Python; give it as path/to/task.py:function, or leave out --workers."
        )
    file, function = split_reference(given)
    executor = executor_of(choices, measures.gpus)
    opening = Opening(
        place=f"{file}:{function}",
        near=f"{os.path.relpath(file)}:{function}",
        measures=measures,
        seed=current_seed(),
        shared=executor.shared,
        threads=_threads(choices) if measures.threads else None,
    )
    return Crew(executor, choices.workers, Start(OPENS, opening))


def _threads(choices: WorkerChoices) -> int | None:
    """Of each worker: they share the cores of this machine. None on a cluster, and where the user
    has said how many there are: then the environment says it."""
    if choices.ray is not None or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, len(os.sched_getaffinity(0)) // choices.workers)


def reference_of(opening: Opening) -> str:
    """Return the task's file and function, as this machine has them."""
    here = Path(opening.place.rpartition(":")[0]).is_file()
    return opening.place if here else opening.near
