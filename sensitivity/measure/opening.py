"""Builds the message that tells a worker how to open the same task."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensitivity.config import WorkerChoices
from sensitivity.errors import SensitivityError
from sensitivity.executors.base import Start, WorkerPool
from sensitivity.executors.choose import executor_of
from sensitivity.seeds import current_seed
from sensitivity.tasks.load import TaskLike, split_reference

OPENS = "sensitivity.worker:opened_worker"


@dataclass(frozen=True)
class Measures:
    """What a run measures with.

    head: head of its journal, which a worker must reproduce.
    residuals: whether skip connections have quantizers.
    memory: bytes for values kept for replay, of all workers together; None takes a quarter of the
        free memory.
    gpus: number of GPUs of each worker on a cluster.
    threads: number of torch threads in the leading process; None if that does not compute.
    row_shape: shape of the scores of one sample in the run; None if it holds none.
    """

    head: Mapping[str, Any]
    residuals: bool = False
    memory: int | None = None
    gpus: int = 0
    threads: int | None = None
    row_shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Opening:
    """How a worker opens the task.

    place: absolute path of the task's file, and the function.
    near: the same, relative to the folder of the leading process, for machines that have the file
        elsewhere.
    measures: what the run measures with.
    seed: seed of the run.
    shared: number of workers that share the memory.
    threads: number of torch threads once the task is opened; None leaves it. While the task is
        opened there are as many as in the leading process, because another number adds in another
        order.
    """

    place: str
    near: str
    measures: Measures
    seed: int
    shared: int
    threads: int | None


def worker_pool(choices: WorkerChoices, user_task: TaskLike, measures: Measures) -> WorkerPool:
    """Return the workers that the settings ask for. They open this task when there is work.

    Raises SensitivityError for a task that is not in a file, MissingPackage without Ray.
    """
    if not isinstance(user_task, str):
        raise SensitivityError(
            "Expected a task in a file for more than one process, each of which opens it, got one "
            "made in Python; give it as path/to/task.py:function, or leave out --workers."
        )
    file, function = split_reference(user_task)
    executor = executor_of(choices, measures.gpus)
    opening = Opening(
        place=f"{file}:{function}",
        near=f"{os.path.relpath(file)}:{function}",
        measures=measures,
        seed=current_seed(),
        shared=executor.shared,
        threads=_threads(choices) if measures.threads else None,
    )
    return WorkerPool(executor, choices.workers, Start(OPENS, opening))


def _threads(choices: WorkerChoices) -> int | None:
    """Return the number of threads of each worker, which share the cores of this machine.

    Returns None on a cluster, and if the environment sets the number.
    """
    if choices.ray is not None or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, len(os.sched_getaffinity(0)) // choices.workers)


def reference_of(opening: Opening) -> str:
    """Return the task's file and function, as this machine has them."""
    here = Path(opening.place.rpartition(":")[0]).is_file()
    return opening.place if here else opening.near
