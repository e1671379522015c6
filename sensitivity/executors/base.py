"""Work spread over workers: who has it, what came of it, and what happens when a worker dies.

Nothing here knows what the work is. A worker opens what it works on once, by itself, and then turns
each piece of work into an answer.
"""

from __future__ import annotations

import importlib
import pickle
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from sensitivity.errors import SensitivityError

TRIES = 3
"""How many workers may die of one piece of work before it is given up."""

OWN = ("builtins", "sensitivity.")
"""Modules whose errors a process that leads knows, whatever its workers have imported."""

Reply = tuple[bool, Any]
"""(True, answer) or (False, error)."""


@dataclass(frozen=True)
class Start:
    """What a worker begins with. place: "module:function", a function that gives a context inside
    of which there is a function from work to answer; it is imported in the worker alone. argument:
    what it is called with."""

    place: str
    argument: Any

    def __call__(self) -> AbstractContextManager[Callable[[Any], Any]]:
        """Open what the worker works on."""
        module, _, name = self.place.partition(":")
        opened: AbstractContextManager[Callable[[Any], Any]] = getattr(
            importlib.import_module(module), name
        )(self.argument)
        return opened


class Lost(Exception):
    """A worker died. The text says how, as far as that is known."""


class Worker(Protocol):
    """One worker, which answers first to its start, then to each piece of work that it is given."""

    def give(self, work: Any) -> None:
        """Hand over the next piece of work. Raises Lost."""
        ...

    def reply(self) -> Reply:
        """What came of the last one; waits for it. Raises Lost."""
        ...

    def stop(self) -> None:
        """End the worker, whatever it is at."""
        ...


class Executor(Protocol):
    """A kind of workers, such as processes of this machine. shared: how many of its workers share
    the memory of one machine, at most."""

    shared: int

    def start(self, start: Start) -> Worker:
        """A new worker, which begins at once."""
        ...

    def ready(self, workers: Sequence[Any]) -> list[Any]:
        """Those that have replied or died; waits until there is one."""
        ...

    def close(self) -> None:
        """Give back what all workers need."""
        ...


@dataclass(eq=False)
class Job:
    """A piece of work that was handed in. deaths: workers that died of it."""

    work: Any
    deaths: int = 0
    replied: Reply | None = field(default=None, repr=False)


class Crew:
    """So many workers of a kind, started when there is work. A worker that dies is replaced, and
    its work done again.

    Used inside `with`, which ends the workers.
    """

    def __init__(self, executor: Executor, count: int, start: Start) -> None:
        self.count = count
        self._executor = executor
        self._start = start
        self._idle: list[Worker] = []
        self._busy: dict[Worker, Job] = {}
        self._waiting: deque[Job] = deque()
        self._refused: Exception | None = None

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in (*self._idle, *self._busy):
            worker.stop()
        self._executor.close()

    def submit(self, work: Any) -> Job:
        """Hand work in; workers take it in this order."""
        for _ in range(self.count - len(self._idle) - len(self._busy)):
            self._begin(Job(None))
        job = Job(work)
        self._waiting.append(job)
        self._deal()
        return job

    def result(self, job: Job) -> Any:
        """The answer; waits for it. Raises what the work raised, or what starting a worker did."""
        while job.replied is None and self._refused is None:
            for worker in self._executor.ready(list(self._busy)):
                self._take(worker)
            self._deal()
        if job.replied is None:
            assert self._refused is not None
            raise self._refused
        done, answer = job.replied
        if not done:
            raise answer
        return answer

    def forget(self, job: Job) -> None:
        """Say that nobody will ask for the result: what is not begun is left out."""
        if job in self._waiting:
            self._waiting.remove(job)

    def _begin(self, job: Job) -> None:
        """Start a worker. job: its start, with how often that went wrong."""
        self._busy[self._executor.start(self._start)] = job

    def _deal(self) -> None:
        while self._idle and self._waiting:
            worker, job = self._idle.pop(), self._waiting.popleft()
            try:
                worker.give(job.work)
            except Lost:  # while it was idle: no work of it is lost
                worker.stop()
                self._waiting.appendleft(job)
                self._begin(Job(None))
            else:
                self._busy[worker] = job

    def _take(self, worker: Worker) -> None:
        """What a worker has replied, or a new worker where it died."""
        job = self._busy.pop(worker)
        try:
            job.replied = worker.reply()
        except Lost as lost:
            worker.stop()
            self._replace(job, lost)
            return
        self._idle.append(worker)
        done, error = job.replied
        if job.work is None and not done:
            self._refused = error

    def _replace(self, job: Job, lost: Lost) -> None:
        job.deaths += 1
        if job.deaths == TRIES:
            error = SensitivityError(
                f"Expected a worker to do its part, got {TRIES} that died of the same one, the "
                f"last: {lost}; give fewer --workers where memory is short, or leave it out."
            )
            job.replied = (False, error)
            self._refused = self._refused or error
            return
        if job.work is None:
            self._begin(job)
            return
        self._waiting.appendleft(job)
        self._begin(Job(None))


class Server:
    """The side of a worker."""

    def __init__(self, start: Start) -> None:
        self._opened = ExitStack()
        self._answer: Callable[[Any], Any]
        self._began = self._replied(self._open, start)

    def began(self) -> Reply:
        """What came of the start."""
        return self._began

    def reply(self, work: Any) -> Reply:
        """What comes of this work."""
        return self._replied(self._answer, work)

    def _open(self, start: Start) -> None:
        self._answer = self._opened.enter_context(start())

    def _replied(self, function: Callable[[Any], Any], argument: Any) -> Reply:
        try:
            return True, function(argument)
        except Exception as error:  # noqa: BLE001 - it is raised where the work came from
            return False, portable(error)


def portable(error: Exception) -> Exception:
    """The error as another process can read it: itself where that process knows its class, else its
    text with the traceback."""
    text = "".join(traceback.format_exception(error))
    if not f"{type(error).__module__}.".startswith(OWN):
        return RuntimeError(text)
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - of our own making
    except Exception:  # noqa: BLE001 - whatever its class makes of it
        known = isinstance(error, SensitivityError)
        return SensitivityError(str(error)) if known else RuntimeError(text)
    if not isinstance(error, SensitivityError):  # which is a sentence that says it all
        error.add_note(f"In a worker:\n{text}")
    return error
