"""What a command says on stderr while it works: bars, lines with times where there is no terminal,
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

UNRELATED = 2
"""Variants forwarded together that may share nothing, as float and everything in INT8 do."""


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


class _OnCourse(ABC):
    """Counts what all work takes, for the time that is left."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._watch = Stopwatch()
        self._course = Course()

    def _begins(self, step: Step) -> float:
        """Take the step for that of now, and return the time."""
        now = time.monotonic()
        self._course.begin(step, now, self._watch.slowed)
        return now

    @contextmanager
    def __call__(self, what: str, total: int) -> Iterator[Advance]:
        """Tell of a piece of work as it begins, goes on and ends."""
        work = Work(what, total, time.monotonic())
        counted = work.began
        with self._shown(work) as goes_on:

            def advance(steps: int, samples: int) -> None:
                nonlocal counted
                now = time.monotonic()
                work.done, work.samples = work.done + steps, work.samples + samples
                self._course.spent(samples, now - counted, whole=steps <= UNRELATED)
                counted = now
                goes_on(now)

            yield advance

    @abstractmethod
    def _shown(self, work: Work) -> AbstractContextManager[Callable[[float], None]]:
        """Tell that the work begins, and where it ends well that it has ended. What is given is
        told the time whenever some of it is done."""


class Below(Progress):
    """Bars below a line that is made anew each time they are drawn. An empty line is left out, and
    so is one whose bars are all at their end: it would stay on the screen and grow old."""

    def __init__(
        self, line: Callable[[], str], columns: Iterable[ProgressColumn], console: Console
    ) -> None:
        self._line = line  # the bars are drawn in what follows
        super().__init__(*columns, console=console)

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn, from top to bottom."""
        line = self._line()
        if line and not self.finished:
            yield Text(line)
        yield self.make_tasks_table(self.tasks)


class Bars(_OnCourse):
    """Steps done, time left and samples spent, each kept up to date on a line of a terminal, below
    the step of the command."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def say(self, sentence: str) -> None:
        """Print it."""
        click.echo(sentence, err=True)

    def begin(self, step: Step) -> None:
        """Print which step it is; how long all still takes stands above its bars."""
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
    """Now and then a line that begins with the seconds since the command began, by whatever work:
    many short pieces in a row are told of too."""

    def say(self, sentence: str) -> None:
        """Print it with the seconds so far."""
        self._line(time.monotonic(), sentence)

    def begin(self, step: Step) -> None:
        """Print which step it is, and how long all still takes."""
        now = self._begins(step)
        self._line(now, self._course.words(now))

    @contextmanager
    def _shown(self, work: Work) -> Iterator[Callable[[float], None]]:
        def goes_on(now: float) -> None:
            if now - self._last >= LINE_EVERY_S:
                self._last = now
                step = self._course.words(now, work)
                self._line(now, "; ".join(part for part in (step, _sentence(work, now)) if part))

        yield goes_on

    def _line(self, now: float, sentence: str) -> None:
        click.echo(f"{now - self._began:.0f} s: {sentence}", err=True)


def _sentence(work: Work, now: float) -> str:
    left = work.left_s(now)
    soon = "" if left is None else f", about {left:.0f} s left"
    return f"{work.what}: {work.done} of {work.total} done{soon}, {work.samples} samples spent"


class Events(_OnCourse):
    """JSON for programs: one object a line when a step or a piece of work begins, when work ends,
    and at most one a second between.

    kind: "step" for a step of the command, "work" for what is done in it. step: which. done, total:
    steps of the command before this one and in all, or parts of the work. samples: forwarded for
    it. seconds: since the command began. left: until the command ends; null where that cannot be
    said.
    """

    def say(self, sentence: str) -> None:
        """Nothing: programs read no sentences."""

    def begin(self, step: Step) -> None:
        """Write which step it is."""
        now = self._begins(step)
        self._write("step", Work(step.name, step.of, now, step.number - 1), now)

    @contextmanager
    def _shown(self, work: Work) -> Iterator[Callable[[float], None]]:
        def goes_on(now: float) -> None:
            if now - self._last >= EVENT_EVERY_S:
                self._write("work", work, now)

        self._write("work", work, work.began)
        yield goes_on
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
