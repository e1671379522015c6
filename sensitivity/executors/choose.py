"""Choice of the kind of workers."""

from __future__ import annotations

from sensitivity.config import WorkerChoices
from sensitivity.executors.base import Executor
from sensitivity.executors.local import LocalExecutor
from sensitivity.executors.ray import RayExecutor


def executor_of(choices: WorkerChoices, gpus: int) -> Executor:
    """Return the executor that the settings ask for.

    gpus: number of GPUs for each worker on a cluster.
    Raises MissingPackage, and SensitivityError if there is no such cluster.
    """
    if choices.ray is None:
        return LocalExecutor(choices.workers)
    return RayExecutor(choices.ray, choices.workers, gpus)
