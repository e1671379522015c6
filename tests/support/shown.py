"""What a repair shows of its progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sensitivity.repairs.samples import Advance


class Shown(list[list[int]]):
    """The number of steps of each display, and the number of those that were done."""

    @contextmanager
    def __call__(self, steps: int) -> Iterator[Advance]:
        """Open a display."""
        here = [steps, 0]
        self.append(here)

        def advance(done: int, samples: int) -> None:
            here[1] += done

        yield advance
