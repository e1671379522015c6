"""What a command prints to stderr while it works: progress bars, timed lines without a terminal,
JSON for programs, or nothing."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import click
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from sensitivity.cli.course import Course, Work
from sensitivity.config import ProgressChoices
from sensitivity.errors import SensitivityError
from sensitivity.measure.progress import Advance, Step, Stopwatch, silent

LINE_EVERY_S = 10.0
EVENT_EVERY_S = 1.0
"""Shortest time between two lines or two events, in seconds."""

UNRELATED = 2
"""Number of variants forwarded together that may share nothing, as float and everything in INT8."""


class Teller(Protocol):
    """A `sensitivity.measure.progress.Progress` that can also print a sentence."""

    def __call__(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """Report a piece of work with `total` steps."""

    def say(self, sentence: str) -> None:
        """Report what happens now."""


def teller(choices: ProgressChoices) -> Teller:
    """Return the teller for these choices and this stderr. Raises SensitivityError for two choices
    that exclude each other."""
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
    """Prints nothing."""

    def __call__(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """Print nothing."""
        return silent(what, total)

    def say(self, sentence: str) -> None:
        """Print nothing."""


class _OnCourse(ABC):
    """Base class that measures the pace of all work, to estimate the time left."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._watch = Stopwatch()
        self._course = Course()

    def _begins(self, step: Step) -> float:
        """Make this the current step, and return the time."""
        now = time.monotonic()
        self._course.begin(step, now, self._watch.slowed)
        return now

    @contextmanager
    def __call__(self, what: str, total: int) -> Iterator[Advance]:
        """Report a piece of work as it begins, proceeds and ends."""
        work = Work(what, total, time.monotonic())
        counted = work.began
        with self._shown(work) as tick:

            def advance(steps: int, samples: int) -> None:
                nonlocal counted
                now = time.monotonic()
                work.done, work.samples = work.done + steps, work.samples + samples
                self._course.spent(samples, now - counted, whole=steps <= UNRELATED)
                counted = now
                tick(now)

            yield advance

    @abstractmethod
    def _shown(self, work: Work) -> AbstractContextManager[Callable[[float], None]]:
        """Report the beginning of the work and, unless it raises, its end.

        Yields a function to be called with the time whenever some of the work is done.
        """


class Below(Progress):
    """Progress bars below a line that is rewritten each time they are drawn.

    The line is left out if it is empty, or if all bars have finished, since it would stay on the
    screen and become outdated.
    """

    def __init__(
        self, line: Callable[[], str], columns: Iterable[ProgressColumn], console: Console
    ) -> None:
        self._line = line  # set first, since the next line already draws the bars
        super().__init__(*columns, console=console)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return what is drawn, from top to bottom."""
        line = self._line()
        if line and not self.finished:
            yield Text(line)
        yield self.make_tasks_table(self.tasks)


class Bars(_OnCourse):
    """Bars with steps done, time left and samples used, kept up to date in a terminal, below the
    step of the command."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def say(self, sentence: str) -> None:
        """Print the sentence."""
        click.echo(sentence, err=True)

    def begin(self, step: Step) -> None:
        """Print the step. The time left for everything is shown above the bars of its work."""
        self.say(self._course.words(self._begins(step)))

    @contextmanager
    def _shown(self, work: Work) -> Iterator[Callable[[float], None]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[samples]} samples"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )

        def line() -> str:
            return self._course.words(time.monotonic(), work)

        with Below(line, columns, self._console) as progress:
            task = progress.add_task(work.what, total=work.total, samples=0)
            yield lambda now: progress.update(task, completed=work.done, samples=work.samples)


class Lines(_OnCourse):
    """Lines with the seconds since the command began, at intervals.

    The interval is counted across pieces of work, so that many short ones in a row are reported
    too.
    """

    def say(self, sentence: str) -> None:
        """Print the sentence with the seconds so far."""
        self._line(time.monotonic(), sentence)

    def begin(self, step: Step) -> None:
        """Print the step and the time left for everything."""
        now = self._begins(step)
        self._line(now, self._course.words(now))

    @contextmanager
    def _shown(self, work: Work) -> Iterator[Callable[[float], None]]:
        def tick(now: float) -> None:
            if now - self._last >= LINE_EVERY_S:
                self._last = now
                step = self._course.words(now, work)
                self._line(now, "; ".join(part for part in (step, _sentence(work, now)) if part))

        yield tick

    def _line(self, now: float, sentence: str) -> None:
        click.echo(f"{now - self._began:.0f} s: {sentence}", err=True)


def _sentence(work: Work, now: float) -> str:
    left = work.left_s(now)
    # The first of several parts may take no time, and tells nothing of the others.
    is_shown = left is not None and left >= 0.5
    soon = f", about {left:.0f} s left" if is_shown else ""
    spent = f", {work.samples} samples spent" if work.samples else ""
    return f"{work.what}: {work.done} of {work.total} done{soon}{spent}"


class Events(_OnCourse):
    """JSON for programs, one object per line.

    A line is written when a step begins, when a piece of work begins or ends, and at most once a
    second in between.

    kind: "step" for a step of the command, "work" for work within it.
    step: name of the step or of the work.
    done, total: steps of the command before this one and in all, or parts of the work.
    samples: samples forwarded for it.
    seconds: time since the command began.
    left: time until the command ends; null if unknown.
    """

    def say(self, sentence: str) -> None:
        """Print nothing, since programs read no sentences."""

    def begin(self, step: Step) -> None:
        """Write the step."""
        now = self._begins(step)
        self._write("step", Work(step.name, step.of, now, step.number - 1), now)

    @contextmanager
    def _shown(self, work: Work) -> Iterator[Callable[[float], None]]:
        def tick(now: float) -> None:
            if now - self._last >= EVENT_EVERY_S:
                self._write("work", work, now)

        self._write("work", work, work.began)
        yield tick
        self._write("work", work, time.monotonic())

    def _write(self, kind: str, work: Work, now: float) -> None:
        self._last = now
        left = self._course.left_s(now, work if kind == "work" else None)
        event = {
            "kind": kind,
            "step": work.what,
            "done": work.done,
            "total": work.total,
            "samples": work.samples,
            "seconds": round(now - self._began, 3),
            "left": None if left is None else round(left, 3),
        }
        click.echo(json.dumps(event), err=True)
