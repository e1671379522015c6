"""What a command says on stderr while it works: bars, lines with times where there is no terminal,
JSON for programs, or nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sensitivity.config import ProgressChoices
from sensitivity.errors import SensitivityError
from sensitivity.measure.progress import Advance, silent

LINE_EVERY_S = 10.0
EVENT_EVERY_S = 1.0


class Teller(Protocol):
    """A `sensitivity.measure.progress.Progress` that can say a sentence too."""

    def __call__(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """Tell of a piece of work with `total` steps."""

    def say(self, sentence: str) -> None:
        """Tell what happens now."""


def teller(choices: ProgressChoices) -> Teller:
    """What these choices and stderr ask for. Raises SensitivityError for two that exclude each
    other."""
    if choices.quiet and choices.json_events:
        raise SensitivityError(
            "Expected one of --quiet and --json-events, got both; leave one out."
        )
    if choices.quiet:
        return Quiet()
    if choices.json_events:
        return Events()
    console = Console(stderr=True)
    return Bars(console) if console.is_terminal else Lines()


class Quiet:
    """Says nothing."""

    def __call__(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """Nothing is told."""
        return silent(what, total)

    def say(self, sentence: str) -> None:
        """Nothing is told."""


class Bars:
    """Steps done, time left and samples spent, each kept up to date on a line of a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, sentence: str) -> None:
        """Print it."""
        click.echo(sentence, err=True)

    @contextmanager
    def __call__(self, what: str, total: int) -> Iterator[Advance]:
        """A bar of its own for each piece of work."""
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
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(what, total=total, samples=0)

            def advance(steps: int, samples: int) -> None:
                nonlocal spent
                spent += samples
                progress.update(task, advance=steps, samples=spent)

            yield advance


@dataclass
class Work:
    """A piece of work and how far it is. began: seconds, of `time.monotonic`."""

    what: str
    total: int
    began: float
    done: int = 0
    samples: int = 0

    def left_s(self, now: float) -> float | None:
        """Seconds that are left at the pace so far; None where nothing is done yet."""
        if not self.done:
            return None
        return (now - self.began) / self.done * (self.total - self.done)


class Lines:
    """Now and then a line that begins with the seconds since the command began, by whatever work:
    many short pieces in a row are told of too."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def say(self, sentence: str) -> None:
        """Print it with the seconds so far."""
        self._line(time.monotonic(), sentence)

    @contextmanager
    def __call__(self, what: str, total: int) -> Iterator[Advance]:
        """A line where none was printed for `LINE_EVERY_S`."""
        work = Work(what, total, time.monotonic())

        def advance(steps: int, samples: int) -> None:
            work.done, work.samples = work.done + steps, work.samples + samples
            now = time.monotonic()
            if now - self._last >= LINE_EVERY_S:
                self._last = now
                self._line(now, _sentence(work, now))

        yield advance

    def _line(self, now: float, sentence: str) -> None:
        click.echo(f"{now - self._began:.0f} s: {sentence}", err=True)


def _sentence(work: Work, now: float) -> str:
    left = work.left_s(now)
    soon = "" if left is None else f", about {left:.0f} s left"
    return f"{work.what}: {work.done} of {work.total} done{soon}, {work.samples} samples spent"


class Events:
    """JSON for programs: one object a line when a piece of work begins and ends, and at most one a
    second between.

    step: what is done. done, total: steps of it. samples: forwarded for it. seconds: since the
    command began.
    """

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def say(self, sentence: str) -> None:
        """Nothing: programs read no sentences."""

    @contextmanager
    def __call__(self, what: str, total: int) -> Iterator[Advance]:
        """Write where the work stands."""
        work = Work(what, total, time.monotonic())
        self._write(work)

        def advance(steps: int, samples: int) -> None:
            work.done, work.samples = work.done + steps, work.samples + samples
            if time.monotonic() - self._last >= EVENT_EVERY_S:
                self._write(work)

        yield advance
        self._write(work)

    def _write(self, work: Work) -> None:
        self._last = time.monotonic()
        event = {
            "step": work.what,
            "done": work.done,
            "total": work.total,
            "samples": work.samples,
            "seconds": round(self._last - self._began, 3),
        }
        click.echo(json.dumps(event), err=True)
