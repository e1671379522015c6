"""How long work says where it stands."""

from __future__ import annotations

import time
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
    """What a step takes, about. samples: that are forwarded. seconds: for all else, where nothing
    else runs on the machine."""

    samples: float = 0
    seconds: float = 0

    def at(self, pace: float, slowed: float = 1.0) -> float:
        """Return the seconds of all of it. pace: seconds that a sample takes, as busy as the
        machine is.
        slowed: see `Stopwatch`.

        >>> Need(100, 5).at(0.5, slowed=2)
        60.0
        """
        return self.samples * pace + self.seconds * slowed


@dataclass(frozen=True)
class Step:
    """A step of a command that begins. number: from 1 to `of`. own, later: what it and all steps
    after it take; None where that is not known yet."""

    name: str
    number: int
    of: int
    own: Need | None = None
    later: Need | None = None


class Stopwatch:
    """What has passed since it was made."""

    def __init__(self) -> None:
        self._began, self._processor = time.monotonic(), time.process_time()

    @property
    def seconds(self) -> float:
        """Seconds by the clock."""
        return time.monotonic() - self._began

    @property
    def slowed(self) -> float:
        """How many times as long as alone work takes on this machine now: the seconds by the clock
        for each that the processor gave this process; at least 1."""
        worked = time.process_time() - self._processor
        return max(1.0, self.seconds / worked) if worked else 1.0


@runtime_checkable
class WithSteps(Protocol):
    """A progress that wants to know of the steps too, in whose course all other work is."""

    def begin(self, step: Step) -> None:
        """Told when a step begins, which ends that before it."""


@contextmanager
def silent(what: str, total: int) -> Iterator[Advance]:
    """Progress for those who want none."""
    yield lambda steps, samples: None
