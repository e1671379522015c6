"""Work spread over workers: handing it out, collecting the answers, and replacing workers that die.

Nothing here depends on what the work is. A worker opens its subject once, and then turns each piece
of work into an answer.
"""

from __future__ import annotations

import importlib
import pickle
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from sensitivity.errors import SensitivityError

TRIES = 3
"""Number of workers that may die on one piece of work before it is given up."""

OWN = ("builtins", "sensitivity.")
"""Modules whose exceptions the main process can import, whatever its workers have imported."""

Reply = tuple[bool, Any]
"""(True, answer) or (False, error)."""


@dataclass(frozen=True)
class Start:
    """How a worker starts.

    place: "module:function" of a function that returns a context manager, which yields a function
        from work to answer. It is imported in the worker only.
    argument: the argument that the function is called with.
    """

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
    """A worker died. The message says how, as far as that is known."""


class Worker(Protocol):
    """One worker. It replies first to its start, and then to each piece of work."""

    def give(self, work: Any) -> None:
        """Send the next piece of work. Raises Lost."""
        ...

    def reply(self) -> Reply:
        """Wait for the reply to the last piece of work and return it. Raises Lost."""
        ...

    def stop(self) -> None:
        """End the worker, whatever it is doing."""
        ...


class Executor(Protocol):
    """A kind of workers, such as processes of this machine.

    shared: largest number of its workers that share the memory of one machine.
    """

    shared: int

    def start(self, start: Start) -> Worker:
        """Return a new worker, which starts at once."""
        ...

    def ready(self, workers: Sequence[Any]) -> list[Any]:
        """Wait until a worker has replied or died, and return all that have."""
        ...

    def close(self) -> None:
        """Release what the workers share."""
        ...


@dataclass(eq=False)
class Job:
    """A piece of work that was submitted.

    work: the work; None for the start of a worker.
    deaths: number of workers that died on it.
    replied: the reply; None until there is one.
    """

    work: Any
    deaths: int = 0
    replied: Reply | None = field(default=None, repr=False)


class WorkerPool:
    """A fixed number of workers of one kind, started when the first work is submitted.

    A worker that dies is replaced, and its work is done again. Use the pool in a `with` block,
    which ends the workers.
    """

    def __init__(self, executor: Executor, count: int, start: Start) -> None:
        self.count = count
        self._executor = executor
        self._start = start
        self._idle: list[Worker] = []
        self._busy: dict[Worker, Job] = {}
        self._waiting: deque[Job] = deque()
        self._refused: Exception | None = None

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in (*self._idle, *self._busy):
            worker.stop()
        self._executor.close()

    def submit(self, work: Any) -> Job:
        """Submit a piece of work. Workers take work in the order of submission."""
        for _ in range(self.count - len(self._idle) - len(self._busy)):
            self._begin(Job(None))
        job = Job(work)
        self._waiting.append(job)
        self._deal()
        return job

    def result(self, job: Job) -> Any:
        """Wait for the answer to a piece of work and return it.

        Raises what the work raised, or what starting a worker raised.
        """
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
        """Drop a piece of work whose result nobody will ask for, unless it has begun."""
        if job in self._waiting:
            self._waiting.remove(job)

    def _begin(self, job: Job) -> None:
        """Start a worker. `job` counts how often its start has failed."""
        self._busy[self._executor.start(self._start)] = job

    def _deal(self) -> None:
        while self._idle and self._waiting:
            worker, job = self._idle.pop(), self._waiting.popleft()
            try:
                worker.give(job.work)
            except Lost:  # the worker died while idle, so no work of it is lost
                worker.stop()
                self._waiting.appendleft(job)
                self._begin(Job(None))
            else:
                self._busy[worker] = job

    def _take(self, worker: Worker) -> None:
        """Take the reply of a worker, or replace the worker if it died."""
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
                f"Expected a worker to finish its part, got {TRIES} that died of the same part, "
                f"the last one: {lost}; use fewer --workers if memory is short, or none."
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
    """The worker's side: opens its subject and replies to work."""

    def __init__(self, start: Start) -> None:
        self._opened = ExitStack()
        self._answer: Callable[[Any], Any]
        self._began = self._replied(self._open, start)

    def began(self) -> Reply:
        """Return the reply to the start."""
        return self._began

    def reply(self, work: Any) -> Reply:
        """Return the reply to a piece of work."""
        return self._replied(self._answer, work)

    def _open(self, start: Start) -> None:
        self._answer = self._opened.enter_context(start())

    def _replied(self, function: Callable[[Any], Any], argument: Any) -> Reply:
        try:
            return True, function(argument)
        except Exception as error:  # noqa: BLE001 - raised again in the main process
            return False, portable(error)


def portable(error: Exception) -> Exception:
    """Return an error that another process can unpickle.

    That is the error itself if its class is known there, else one with its text and traceback.
    """
    text = "".join(traceback.format_exception(error))
    if not f"{type(error).__module__}.".startswith(OWN):
        return RuntimeError(text)
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - pickled in the same line
    except Exception:  # noqa: BLE001 - its class may raise anything
        known = isinstance(error, SensitivityError)
        return SensitivityError(str(error)) if known else RuntimeError(text)
    if not isinstance(error, SensitivityError):  # whose sentence needs no traceback
        error.add_note(f"In a worker:\n{text}")
    return error
