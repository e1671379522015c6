"""The measuring loop: batch by batch, it measures every variant whose scores are missing, and
writes them to the journal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from sensitivity.errors import TaskError
from sensitivity.journal.journal import Journal
from sensitivity.measure.checked import check_values, user_error
from sensitivity.measure.forward import Comparison, Forwarder, MakeSimulator
from sensitivity.measure.progress import Advance, Progress, silent
from sensitivity.measure.reader import Reader
from sensitivity.records import Range, Scores, Variant
from sensitivity.signals.base import Signal
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import batch_digest, batch_size


class Measurer(Forwarder):
    """Source of the scores of variants on splits: the journal if it has them, otherwise the
    simulator."""

    def __init__(
        self, task: Task, simulator: MakeSimulator, journal: Journal, progress: Progress = silent
    ) -> None:
        super().__init__(task, simulator)
        self.journal = journal
        self.progress = progress
        self.ranges: tuple[Range, ...] = ()
        self._checked: set[tuple[str, int]] = set()
        self._digests: dict[tuple[str, int], str] = {}
        self._values: tuple[int, ...] | None = None
        self._in_use: dict[str, int] = {}

    @contextmanager
    def only_first(self, split: str, batches: int | None) -> Iterator[None]:
        """Use only the first batches of a split inside the `with`.

        batches: number of batches, >= 1, or None for all; `use_first` may change it inside.
        """
        before = dict(self._in_use)
        if batches is not None:
            self.use_first(split, batches)
        try:
            yield
        finally:
            self._in_use = before

    def use_first(self, split: str, batches: int) -> None:
        """Use only the first batches of a split from now on."""
        self._in_use[split] = batches

    def count(self, split: str) -> int:
        """Return the number of batches of a split that are in use."""
        whole = len(self.task.data[split])
        return min(self._in_use.get(split, whole), whole)

    def uses_part(self, split: str) -> bool:
        """Return whether only a part of a split is in use."""
        return self.count(split) < len(self.task.data[split])

    @contextmanager
    def with_ranges(self, ranges: Iterable[Range]) -> Iterator[None]:
        """Give quantizers these ranges inside the `with`, in every variant that does not give them
        others."""
        before = self.ranges
        self.ranges = tuple(ranges)
        try:
            yield
        finally:
            self.ranges = before

    def of(self, variant: Variant) -> Variant:
        """Return the variant as it is measured: with the ranges in force, and without ranges for
        disabled quantizers."""
        # The variant's own ranges come last, so that they replace the ranges in force.
        by_quantizer = {tried.quantizer: tried for tried in (*self.ranges, *variant.ranges)}
        kept = [by_quantizer[name] for name in by_quantizer.keys() - variant.disabled]
        return replace(variant, ranges=frozenset(kept))

    def scores(self, variants: Sequence[Variant], split: str, what: str) -> list[Scores]:
        """Return per-sample scores float64[n] or [n, k] of each variant on all of `split` that is
        in use, in the order of `variants`.

        what: name of the work in the progress display.
        """
        batches = list(self.stream(variants, split, what))
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    def stream(self, variants: Sequence[Variant], split: str, what: str) -> Iterator[list[Scores]]:
        """Yield the same scores batch by batch. A batch is measured when it is asked for, so a
        caller that has seen enough can stop."""
        variants = list(map(self.of, variants))
        count = self.count(split)
        missing = sum(len(self._missing(variants, split, batch)) for batch in range(count))
        with self.progress(what, missing) if missing else nullcontext(_no_progress) as advance:
            yield from self._batches(variants, split, count, advance)

    def _batches(
        self, variants: Sequence[Variant], split: str, count: int, advance: Advance
    ) -> Iterator[list[Scores]]:
        reader = Reader(self.task, split)
        for batch in range(count):
            yield self.batch(variants, split, batch, reader, advance)

    def batch(
        self, variants: Sequence[Variant], split: str, batch: int, reader: Reader, advance: Advance
    ) -> list[Scores]:
        """Return the scores of each variant on one batch."""
        variants = list(map(self.of, variants))
        missing = self._missing(distinct(variants), split, batch)
        if missing:
            self._measure(missing, split, batch, reader, advance)
        return [self._known(variant, split, batch) for variant in variants]

    def distortion(
        self,
        signal: Signal,
        variants: Sequence[Variant],
        reference: Variant,
        samples: int,
        *,
        until: int | None = None,
    ) -> list[Scores]:
        """Return how far each variant's outputs are from those of `reference`, float64[n], on the
        first samples of `rank`.

        signal: measures the distance; its name is part of the journal's key.
        samples: number of samples; a few more if batches have to stay whole, all if there are
            fewer.
        until: number of them to look at for now, None for all. A later call with more goes on from
            there.
        """
        samples_now = samples if until is None else until
        variants = list(map(self.of, variants))
        whole = Comparison(signal, self.of(reference), samples, 0, by_looks=until is not None)
        reader, batches, split = Reader(self.task, "rank"), list[list[Scores]](), whole.split
        each = distinct(variants)
        with self.progress(f"signal: {signal.name}", len(each) * samples_now) as advance:
            for batch in range(reader.count):
                seen = sum(len(parts[0]) for parts in batches)
                wanted = samples_now - seen
                if wanted <= 0:
                    break
                missing = self._missing(each, split, batch)
                if missing:
                    self._compare(replace(whole, batch=batch), missing, reader, wanted, advance)
                batches.append([self._known(variant, split, batch) for variant in variants])
                size = min(len(batches[-1][0]), wanted)
                advance((len(each) - len(missing)) * size, 0)
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    def known(self, variant: Variant, split: str) -> Scores:
        """Return the scores of the first batches of `split`, of those in use, that have been
        measured; if none has been, measure all of them now."""
        variant = self.of(variant)
        parts = list[Scores]()
        for batch in range(self.count(split)):
            scores = self.journal.scores(variant, split, batch)
            if scores is None:
                break
            parts.append(scores)
        if parts:
            return np.concatenate(parts)
        return self.scores([variant], split, variant.label)[0]

    def aggregate(self, scores: Scores) -> float:
        """Return the task's metric of these scores. Raises TaskError if the task raises or the
        metric is not finite."""
        try:
            value = float(self.task.aggregate(scores))
        except Exception as error:
            raise user_error("task.aggregate", "", error) from error
        if not np.isfinite(value):
            raise TaskError(
                f"Expected task.aggregate to return a finite number, got {value}; check it on "
                f"scores of shape {scores.shape}."
            )
        return value

    def _measure(
        self, variants: list[Variant], split: str, batch: int, reader: Reader, advance: Advance
    ) -> None:
        """Score the variants on a batch, and write the scores down."""
        inputs, targets = reader.at(batch)
        self.check_data(split, batch, inputs, targets)
        measured = list[tuple[Variant, Scores]]()
        for index, scores in self.scored(variants, inputs, targets, (split, batch)):
            measured.append((variants[index], scores))
            advance(1, batch_size(inputs))
        self._write(measured, split, batch)

    def _compare(
        self,
        comparison: Comparison,
        variants: list[Variant],
        reader: Reader,
        wanted: int,
        advance: Advance,
    ) -> None:
        """Compare outputs on a batch, and write the distances down."""
        inputs, targets = reader.at(comparison.batch)
        self.check_data(comparison.split, comparison.batch, inputs, targets)
        before = self.samples
        for index, values in self.distorted(comparison, variants, inputs, wanted):
            self.journal.add_scores(variants[index], comparison.split, comparison.batch, values)
            advance(min(len(values), wanted), self.samples - before)
            before = self.samples
        self.journal.sync()

    def _write(self, measured: list[tuple[Variant, Scores]], split: str, batch: int) -> None:
        """Write the scores of one batch down. Raises TaskError if samples have another number of
        values than before."""
        where = f" on batch {batch} of split {split!r}"
        for _, scores in measured:
            self._values = scores.shape[1:] if self._values is None else self._values
            check_values(scores, self._values, where)
        for variant, scores in measured:
            self.journal.add_scores(variant, split, batch, scores)
        self.journal.sync()

    def check_data(
        self, split: str, batch: int, inputs: Any, targets: Any, *, also: Sequence[str] = ()
    ) -> None:
        """Raise JournalMismatch if this batch is not the one that earlier scores came from.

        Each batch is checked once, because a digest takes as long as a small model does.

        also: other names under which values of the same batch are kept.
        """
        new = [name for name in (split, *also) if (name, batch) not in self._checked]
        if not new:
            return
        place = split.partition(":")[0], batch
        if place not in self._digests:
            self._digests[place] = batch_digest(inputs, targets)
        for name in new:
            self._check_digest(name, batch, self._digests[place])

    def _check_digest(self, split: str, batch: int, digest: str) -> None:
        self._check_first(split.partition(":")[0], batch, digest)
        self.journal.add_batch(split, batch, digest)
        self._checked.add((split, batch))

    def _check_first(self, split: str, batch: int, digest: str) -> None:
        """Raise TaskError if the first batch differs from the one in the journal's head."""
        first = self.journal.head.get("data", {}).get(split, {}).get("first", digest)
        if batch == 0 and digest != first:
            raise TaskError(
                f"Expected split {split!r} to give the same batches in the same order each time, "
                "got another first batch; fix the seed of what is drawn at random, and do not "
                "shuffle."
            )

    def _missing(self, variants: Iterable[Variant], split: str, batch: int) -> list[Variant]:
        """Return the variants without scores of this batch."""
        return [
            variant for variant in variants if self.journal.scores(variant, split, batch) is None
        ]

    def _known(self, variant: Variant, split: str, batch: int) -> Scores:
        scores = self.journal.scores(variant, split, batch)
        assert scores is not None, "measured just before"
        return scores


def distinct(variants: Iterable[Variant]) -> list[Variant]:
    """Return each variant once, in their order."""
    return list({variant.key: variant for variant in variants}.values())


def _no_progress(steps: int, samples: int) -> None:
    """Report nothing, because nothing is forwarded."""
