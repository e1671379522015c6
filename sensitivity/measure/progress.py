"""Progress of long work: steps, estimates and the interface of a progress display."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

Advance = Callable[[int, int], None]
"""Function that is told the number of steps done, and the number of samples spent on them."""
Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""Function that opens a progress display: `with progress("scan", steps) as advance: advance(1,
50)`."""


@dataclass(frozen=True)
class Need:
    """Estimate of what a step takes.

    samples: number of samples that are forwarded.
    seconds: time for all else, on a machine that runs nothing else.
    """

    samples: float = 0
    seconds: float = 0

    def at(self, pace: float, slowed: float = 1.0) -> float:
        """Return the seconds of all of it.

        pace: seconds that a sample takes on the machine as it is now.
        slowed: see `Stopwatch`.

        >>> Need(100, 5).at(0.5, slowed=2)
        60.0
        """
        return self.samples * pace + self.seconds * slowed


@dataclass(frozen=True)
class Step:
    """A step of a command that begins.

    name: what the display calls it.
    number: its number, from 1 to `of`.
    of: number of steps.
    own: what the step takes; None if that is not known yet.
    later: what all steps after it take; None if that is not known yet.
    """

    name: str
    number: int
    of: int
    own: Need | None = None
    later: Need | None = None


class Stopwatch:
    """Time since it was made."""

    def __init__(self) -> None:
        self._began, self._processor = time.monotonic(), time.process_time()

    @property
    def seconds(self) -> float:
        """Seconds by the clock."""
        return time.monotonic() - self._began

    @property
    def slowed(self) -> float:
        """Factor by which other work slows this process down: seconds by the clock per second of
        processor time; at least 1."""
        worked = time.process_time() - self._processor
        return max(1.0, self.seconds / worked) if worked else 1.0


@runtime_checkable
class WithSteps(Protocol):
    """A progress display that also shows the steps of a command, in which all other work
    happens."""

    def begin(self, step: Step) -> None:
        """Start this step, which ends the step before it."""


@contextmanager
def silent(what: str, total: int) -> Iterator[Advance]:
    """Yield a function that shows no progress."""
    yield lambda steps, samples: None
