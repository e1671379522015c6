"""What the workers of tests open: a sum, and a task on a model whose quantization errors are
known."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensitivity.errors import MissingPackage, TaskError
from sensitivity.measure.work import Hand
from sensitivity.tasks.base import Task
from sensitivity.testing.fakes import FakeModel, FakeSimulator
from support.batches import batches

HARM = {"stem": 0.30, "body": 0.02, "head": 0.10, "neck": 0.05}


def die_once(marker: Path) -> None:
    """Kill this process, except the second one that comes here."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def sums(offset: int) -> Iterator[Callable[[Any], Any]]:
    if offset < 0:
        raise TaskError(f"Expected an offset of at least 0, got {offset}.")

    def answer(work: Any) -> Any:
        if isinstance(work, Path):
            die_once(work)
            return "done again"
        if work == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if work == "pid":
            return os.getpid()
        if work == "lacks":
            raise MissingPackage("some", "sums", "extra")
        return work + offset

    yield answer


@dataclass(frozen=True)
class FakeTask:
    """A task for workers.

    dies: a file that records whether a worker has died of batch 3 of `rank`.
    fails: whether the score of that batch fails.
    size: samples in a batch.
    """

    dies: Path | None = None
    fails: bool = False
    size: int = 20
    leader: int = field(default_factory=os.getpid)

    def task(self) -> Task:
        data = {
            split: batches(size=self.size, seed=seed)
            for seed, split in enumerate(("rank", "confirm", "holdout"))
        }
        third = data["rank"][3][0]

        def score(outputs: Any, targets: Any) -> Any:
            if targets == 3 and self.fails:
                raise KeyError("label")
            if targets == 3 and self.dies and os.getpid() != self.leader:
                die_once(self.dies)
            return outputs

        data["rank"][3] = (third, 3)
        return Task(FakeModel(HARM), data, score)


@contextmanager
def fake(told: FakeTask) -> Iterator[Callable[[Any], Any]]:
    task = told.task()
    yield Hand(task, lambda candidates: FakeSimulator(task.model))
