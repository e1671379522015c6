"""A measurer whose variants are forwarded by workers. It alone writes the journal, in the order in
which one process would have measured."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sensitivity.executors.base import Job, WorkerPool
from sensitivity.journal.journal import Journal
from sensitivity.measure.forward import Comparison, MakeSimulator, Used
from sensitivity.measure.measurer import Measurer, distinct
from sensitivity.measure.progress import Advance, Progress, silent
from sensitivity.measure.reader import Reader
from sensitivity.measure.work import Compared, Measured, Work
from sensitivity.records import Scores, Variant
from sensitivity.tasks.base import Task

AHEAD = 2
"""Number of batches for each worker that are submitted before the first result is read: one in
work, and one that is ready to begin."""


@dataclass(frozen=True)
class Pending:
    """A batch that workers measure.

    split: name of the split.
    batch: number of the batch.
    parts: the variants that each of `jobs` measures.
    jobs: the jobs.
    """

    split: str
    batch: int
    parts: list[Sequence[Variant]]
    jobs: list[Job]


class ParallelMeasurer(Measurer):
    """Measurer that has several workers measure batches ahead.

    All workers share the batches of a race or a signal, each with neighbouring variants. Results
    that nobody asks for are thrown away, so that the journal holds what one process would have
    written.
    """

    def __init__(
        self,
        task: Task,
        simulator: MakeSimulator,
        journal: Journal,
        pool: WorkerPool,
        progress: Progress = silent,
    ) -> None:
        super().__init__(task, simulator, journal, progress)
        self._pool = pool
        self._used: Used | None = None
        self._compared: set[tuple[str | int, ...]] = set()

    def simulator_used(self) -> Used | None:
        """Return the facts about the simulators of this process and of the workers, with the
        warnings of both."""
        own, theirs = super().simulator_used(), self._used
        if own is None or theirs is None:
            return own or theirs
        return replace(own, warnings=_joined(own.warnings, theirs.warnings))

    def _batches(
        self, variants: Sequence[Variant], split: str, count: int, advance: Advance
    ) -> Iterator[list[Scores]]:
        missing = [batch for batch in range(count) if self._missing(variants, split, batch)]
        # The last batches are fewer than the workers, so all workers share each of them.
        whole = len(missing) - len(missing) % self._pool.count
        waiting = deque(enumerate(missing))
        pending: dict[int, Pending] = {}
        try:
            for batch in range(count):
                while waiting and len(pending) < AHEAD * self._pool.count:
                    place, ahead = waiting.popleft()
                    parts = 1 if place < whole else self._pool.count
                    pending[ahead] = self._submit(variants, split, ahead, parts)
                if batch in pending:
                    self._collect(pending.pop(batch), advance)
                yield [self._known(variant, split, batch) for variant in variants]
        finally:
            for unused in pending.values():
                self._forget(unused)

    def _submit(self, variants: Sequence[Variant], split: str, batch: int, parts: int) -> Pending:
        """Hand out the missing variants of a batch."""
        chunks = _chunks(self._missing(distinct(variants), split, batch), parts)
        candidates = self.candidates_for(variants)
        works = [Work(split, batch, tuple(chunk), candidates) for chunk in chunks]
        return Pending(split, batch, chunks, [self._pool.submit(work) for work in works])

    def _collect(self, pending: Pending, advance: Advance) -> None:
        """Write down what the workers measured of a batch."""
        answers = self._answers(pending)
        scored = _scores(pending, answers)
        # The consumer of the earlier batches may have measured some of these since.
        missing = [
            (variant, scores)
            for variant, scores in scored
            if self.journal.scores(variant, pending.split, pending.batch) is None
        ]
        self._write(missing, pending.split, pending.batch)
        samples = sum(len(scores) for _, scores in missing)
        self.samples += samples
        advance(len(missing), samples)

    def _answers(self, pending: Pending) -> list[Measured]:
        """Return the answers to all jobs of a batch.

        Raises what the first failed job raised: TaskError, or JournalMismatch for other data.
        """
        try:
            answers: list[Measured] = [self._pool.result(job) for job in pending.jobs]
        finally:
            self._forget(pending)
        for answer in answers:
            self._check_digest(pending.split, pending.batch, answer.digest)
            before = self._used.warnings if self._used else ()
            self._used = replace(answer.used, warnings=_joined(before, answer.used.warnings))
        return answers

    def _measure(
        self, variants: list[Variant], split: str, batch: int, reader: Reader, advance: Advance
    ) -> None:
        self._collect(self._submit(variants, split, batch, self._pool.count), advance)

    def _compare(
        self,
        comparison: Comparison,
        variants: list[Variant],
        reader: Reader,
        wanted: int,
        advance: Advance,
    ) -> None:
        before, split, batch = self.samples, comparison.split, comparison.batch
        chunks = _chunks(variants, self._pool.count)
        candidates = self.candidates_for(variants)
        compared = Compared(
            comparison.signal.name, comparison.reference, comparison.samples, wanted
        )
        works = [Work("rank", batch, tuple(chunk), candidates, compared) for chunk in chunks]
        pending = Pending(split, batch, chunks, [self._pool.submit(work) for work in works])
        answers = self._answers(pending)
        scored = _scores(pending, answers)
        for variant, values in scored:
            self.journal.add_scores(variant, split, batch, values)
        self.journal.sync()
        self._count_compared(comparison, answers)
        steps = sum(min(len(values), wanted) for _, values in scored)
        advance(steps, self.samples - before)

    def _count_compared(self, comparison: Comparison, answers: list[Measured]) -> None:
        """Count samples as one process would forward them: the reference once for each batch, and
        the samples of a fit once."""
        samples = [len(scores) for answer in answers for _, scores in answer.measured]
        self.samples += sum(samples)
        spent = {comparison.place(samples[0]): samples[0], comparison.fit: answers[0].fitted}
        for place, count in spent.items():
            if place not in self._compared:
                self._compared.add(place)
                self.samples += count

    def _forget(self, pending: Pending) -> None:
        for job in pending.jobs:
            self._pool.forget(job)


def _scores(pending: Pending, answers: Sequence[Measured]) -> list[tuple[Variant, Scores]]:
    """Return the variants and their scores, in the order in which they were measured."""
    scored = []
    for part, answer in zip(pending.parts, answers, strict=True):
        scored += [(part[index], scores) for index, scores in answer.measured]
    return scored


def _chunks(variants: Sequence[Variant], parts: int) -> list[Sequence[Variant]]:
    """Return the variants in this many parts of neighbours, because neighbours share most of the
    computation.

    >>> _chunks("abcde", 3)
    ['ab', 'cd', 'e']
    >>> _chunks("a", 3)
    ['a']
    """
    size = max(1, -(-len(variants) // parts))
    return [variants[start : start + size] for start in range(0, len(variants), size)]


def _joined(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*one, *other)))
