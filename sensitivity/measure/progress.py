"""How long work says where it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

Advance = Callable[[int, int], None]
"""advance(steps done, samples spent on them)."""
Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""`with progress("scan", steps) as advance: advance(1, 50)`."""


@dataclass(frozen=True)
class Need:
    """What a step takes, about. samples: that are forwarded. seconds: for all else."""

    samples: float = 0
    seconds: float = 0

    def at(self, pace: float) -> float:
        """Seconds of all of it. pace: seconds that a sample takes.

        >>> Need(100, 5).at(0.5)
        55.0
        """
        return self.samples * pace + self.seconds


@dataclass(frozen=True)
class Step:
    """A step of a command that begins. number: from 1 to `of`. own, later: what it and all steps
    after it take; None where that is not known yet."""

    name: str
    number: int
    of: int
    own: Need | None = None
    later: Need | None = None


@runtime_checkable
class WithSteps(Protocol):
    """A progress that wants to know of the steps too, in whose course all other work is."""

    def begin(self, step: Step) -> None:
        """Told when a step begins, which ends that before it."""


@contextmanager
def silent(what: str, total: int) -> Iterator[Advance]:
    """Progress for those who want none."""
    yield lambda steps, samples: None
