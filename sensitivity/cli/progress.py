"""Progress bars with done, left and ETA; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sensitivity.measure.progress import Advance

LINE_EVERY_S = 10.0


class Pace:
    """When a line was last printed, by any step: many short steps in a row are told of too."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time for a line, which is then taken to be printed."""
        now = time.monotonic()
        due = now - self._last >= LINE_EVERY_S
        if due:
            self._last = now
        return due


PACE = Pace()


@contextmanager
def bar(what: str, total: int) -> Iterator[Advance]:
    """Steps done, time left and samples spent, on stderr. See `sensitivity.measure.progress`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console, what, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[samples]} samples"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    spent = 0
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total, samples=0)

        def advance(steps: int, samples: int) -> None:
            nonlocal spent
            spent += samples
            progress.update(task, advance=steps, samples=spent)

        yield advance


def _lines(console: Console, what: str, total: int) -> Advance:
    start = time.monotonic()
    done = spent = 0

    def advance(steps: int, samples: int) -> None:
        nonlocal done, spent
        done, spent = done + steps, spent + samples
        if PACE.is_due():
            left = (time.monotonic() - start) / max(done, 1) * (total - done)
            console.print(
                f"{what}: {done} of {total} done, about {left:.0f} s left, {spent} samples spent"
            )

    return advance
