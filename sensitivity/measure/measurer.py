"""The measuring loop: batch by batch, every variant that is still missing, written down as it is
made."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import SensitivityError, TaskError
from sensitivity.journal.journal import Journal
from sensitivity.measure.kept import KeptOutputs, Place
from sensitivity.measure.progress import Advance, Progress, silent
from sensitivity.records import Range, Scores, Variant
from sensitivity.signals.base import Distance, Outputs, Signal
from sensitivity.signals.distortion import flat_outputs
from sensitivity.simulators.base import Simulator
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import batch_digest, batch_size, check_pair, first_samples, scores_of

MakeSimulator = Callable[[tuple[Range, ...]], Simulator]


class Reader:
    """The batches of one split in order, read when first asked for. Batch numbers may only grow."""

    def __init__(self, task: Task, split: str) -> None:
        self.count = len(task.data[split])
        self._split = split
        self._batches = enumerate(iter(task.data[split]))

    def at(self, batch: int) -> tuple[Any, Any]:
        """(inputs, targets) of this batch. Raises TaskError where the data has fewer or more
        batches than its len()."""
        found = next((found for number, found in self._batches if number == batch), None)
        last = batch == self.count - 1
        if found is None or (last and next(self._batches, None) is not None):
            got = "fewer" if found is None else "more"
            raise TaskError(
                f"Expected split {self._split!r} to hold {self.count} batches as its len() says, "
                f"got {got}; make len() and iteration agree."
            )
        return check_pair(found, self._split)


class Measurer:
    """Scores of variants on splits, from the journal where it has them and from the simulator where
    not.

    simulator: called with the ranges that it has to offer, when the first sample has to be
    forwarded and again when
        others are needed.
    samples: how many samples have been forwarded (one variant on one sample counts one).
    references: what float gives, which is the same whatever ranges variants have.
    """

    def __init__(
        self, task: Task, simulator: MakeSimulator, journal: Journal, progress: Progress = silent
    ) -> None:
        self.task = task
        self.journal = journal
        self.progress = progress
        self.samples = 0
        self.references = KeptOutputs()
        self.ranges: tuple[Range, ...] = ()
        self._make_simulator = simulator
        self._simulator: Simulator | None = None
        self._offered: tuple[Range, ...] = ()
        self._checked: set[tuple[str, int]] = set()
        self._values: tuple[int, ...] | None = None
        self._distances: dict[tuple[str, str, int], Distance] = {}

    def offer(self, ranges: Iterable[Range]) -> None:
        """Say which ranges variants will use from now on, so that one simulator serves them all."""
        wanted = tuple(dict.fromkeys(ranges))
        if not set(wanted) <= set(self._offered):
            self._offered, self._simulator = wanted, None

    @contextmanager
    def with_ranges(self, ranges: Iterable[Range]) -> Iterator[None]:
        """Inside the `with`, quantizers have these ranges in every variant, unless it gives them
        others."""
        before = self.ranges
        self.ranges = tuple(ranges)
        try:
            yield
        finally:
            self.ranges = before

    def of(self, variant: Variant) -> Variant:
        """The variant as it is measured: with the ranges of now, and none for what is disabled."""
        own = {one.quantizer for one in variant.ranges}
        ranges = [*variant.ranges, *(one for one in self.ranges if one.quantizer not in own)]
        return replace(
            variant,
            ranges=frozenset(one for one in ranges if one.quantizer not in variant.disabled),
        )

    def scores(self, variants: Sequence[Variant], split: str, what: str) -> list[Scores]:
        """Per-sample scores float64[n] or [n, k] of each variant on all of `split`, in the order of
        `variants`."""
        batches = list(self.stream(variants, split, what))
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    def stream(self, variants: Sequence[Variant], split: str, what: str) -> Iterator[list[Scores]]:
        """The same batch by batch, each measured when it is asked for: who has seen enough stops
        asking."""
        variants = [self.of(variant) for variant in variants]
        reader = Reader(self.task, split)
        count = len(self.task.data[split])
        missing = sum(
            self.journal.scores(v, split, batch) is None for v in variants for batch in range(count)
        )
        with self.progress(what, missing) if missing else nullcontext(_no_progress) as advance:
            for batch in range(count):
                yield self.batch(variants, split, batch, reader, advance)

    def batch(
        self, variants: Sequence[Variant], split: str, batch: int, reader: Reader, advance: Advance
    ) -> list[Scores]:
        """Scores of each variant on one batch."""
        variants = [self.of(variant) for variant in variants]
        distinct = {variant.key: variant for variant in variants}.values()
        missing = [
            variant for variant in distinct if self.journal.scores(variant, split, batch) is None
        ]
        if missing:
            inputs, targets = reader.at(batch)
            self._measure(missing, split, batch, inputs, targets)
            advance(len(missing), len(missing) * batch_size(inputs))
        return [self._known(variant, split, batch) for variant in variants]

    def distortion(
        self, signal: Signal, variants: Sequence[Variant], reference: Variant, samples: int
    ) -> list[Scores]:
        """How far each variant's outputs are from those of `reference`: float64[n] on the first
        samples of `rank`.

        signal: its name is part of the journal's key. samples: how many; some more where batches
        have to stay whole, all where there are fewer.
        """
        split = f"rank: {signal.name}{signal.edition}, first {samples}"
        variants, reference = [self.of(variant) for variant in variants], self.of(reference)
        reader, found = Reader(self.task, "rank"), list[list[Scores]]()
        with self.progress(f"signal: {signal.name}", samples) as advance:
            for batch in range(reader.count):
                seen = sum(len(parts[0]) for parts in found)
                wanted = samples - seen
                if wanted <= 0:
                    break
                missing = [v for v in variants if self.journal.scores(v, split, batch) is None]
                if missing:
                    inputs, targets = reader.at(batch)
                    self.check_data(split, batch, inputs, targets)
                    simulator = self._simulator_for(missing)
                    fitted = self._fitted(signal, reference, samples)
                    part = _at_least(wanted, inputs, simulator)
                    place = f"{split}, {reference.key}, {batch_size(part)}", batch
                    expected = self._known_reference(place, fitted, reference, part)
                    for variant, values in self._distortions(fitted, missing, expected, part):
                        self.journal.add_scores(variant, split, batch, values)
                    self.journal.sync()
                    size = batch_size(inputs)
                    advance(min(size, wanted), (len(missing) + 1) * size)
                found.append([self._known(variant, split, batch) for variant in variants])
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def known(self, variant: Variant, split: str) -> Scores:
        """Scores of the first batches of `split` that have been measured; of all, measured now,
        where none has been."""
        variant = self.of(variant)
        parts: list[Scores] = []
        while (scores := self.journal.scores(variant, split, len(parts))) is not None:
            parts.append(scores)
        return np.concatenate(parts) if parts else self.scores([variant], split, variant.label)[0]

    def aggregate(self, scores: Scores) -> float:
        """The task's metric of these scores. Raises TaskError if it raises or is not finite."""
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

    def outputs(self, variants: Sequence[Variant], inputs: Any) -> Iterator[tuple[int, Any]]:
        """What each variant gives for these inputs, with its place in `variants`; nothing is scored
        or kept."""
        return self._simulator_for(variants).outputs(
            inputs, [variant.switched for variant in variants]
        )

    @property
    def simulator(self) -> Simulator:
        if self._simulator is None:
            self._simulator = self._make_simulator(self._offered)
        return self._simulator

    def _simulator_for(self, variants: Iterable[Variant]) -> Simulator:
        needed = {one for variant in variants for one in variant.ranges}
        if not needed <= set(self._offered):
            self.offer(dict.fromkeys([*self._offered, *sorted(needed, key=lambda one: one.key)]))
        return self.simulator

    def simulator_used(self) -> Simulator | None:
        """None where nothing has been forwarded."""
        return self._simulator

    def _measure(
        self, variants: list[Variant], split: str, batch: int, inputs: Any, targets: Any
    ) -> None:
        self.check_data(split, batch, inputs, targets)
        size = batch_size(inputs)
        where = f" on batch {batch} of split {split!r}"
        measured: list[tuple[Variant, Scores]] = []
        for index, output in self.outputs(variants, inputs):
            measured.append(
                (variants[index], checked_scores(self.task, output, targets, size, where))
            )
            self.samples += size
            del output  # not kept while the next one is computed
        for _, scores in measured:
            self._values = scores.shape[1:] if self._values is None else self._values
            check_values(scores, self._values, where)
        for variant, scores in measured:
            self.journal.add_scores(variant, split, batch, scores)
        self.journal.sync()

    def check_data(
        self, split: str, batch: int, inputs: Any, targets: Any, *, also: Sequence[str] = ()
    ) -> None:
        """Raise JournalMismatch where this batch is not the one that earlier scores were of. Once
        for each batch: a digest takes as long as a small model does. also: other names under which
        values of the same batch are kept."""
        new = [name for name in (split, *also) if (name, batch) not in self._checked]
        if not new:
            return
        digest = batch_digest(inputs, targets)
        for name in new:
            self._check_first(name.partition(":")[0], batch, digest)
            self.journal.add_batch(name, batch, digest)
            self._checked.add((name, batch))

    def _fitted(self, signal: Signal, reference: Variant, samples: int) -> Signal:
        """The signal with its distance on the first `samples` samples of `rank`."""
        if signal.fitted is None:
            return signal
        key = (signal.name, self.of(reference).key, samples)
        if key not in self._distances:
            self._distances[key] = signal.fitted(self._references(signal, reference, samples))
        return replace(signal, of=self._distances[key], fitted=None)

    def _references(self, signal: Signal, reference: Variant, samples: int) -> Iterator[Outputs]:
        """What `reference` gives on the first `samples` samples of `rank`, batch by batch."""
        reader, open_ = Reader(self.task, "rank"), samples
        for batch in range(reader.count):
            inputs = _at_least(open_, reader.at(batch)[0], self.simulator)
            yield self._reference(signal, reference, inputs)
            open_ -= batch_size(inputs)
            if open_ <= 0:
                return

    def _reference(
        self, signal: Signal, reference: Variant, inputs: Any
    ) -> list[NDArray[np.floating]]:
        ((_, output),) = self.outputs([reference], inputs)
        self.samples += batch_size(inputs)
        return [array.copy() for array in (signal.view or flat_outputs)(output)]

    def _known_reference(
        self, place: Place, signal: Signal, reference: Variant, inputs: Any
    ) -> Outputs:
        """The same, kept for the next variants that are compared with it there."""
        known: Outputs | None = self.references.get(place)
        if known is None:
            known = self._reference(signal, reference, inputs)
            self.references.keep(place, known)
        return known

    def _check_first(self, split: str, batch: int, digest: str) -> None:
        """Raise TaskError where the first batch is another one than when the journal's head was
        made of it."""
        first = self.journal.head.get("data", {}).get(split, {}).get("first", digest)
        if batch == 0 and digest != first:
            raise TaskError(
                f"Expected split {split!r} to give the same batches in the same order each time, "
                "got another first batch; fix the seed of what is drawn at random, and do not "
                "shuffle."
            )

    def _distortions(
        self, signal: Signal, variants: list[Variant], expected: Outputs, inputs: Any
    ) -> list[tuple[Variant, Scores]]:
        """How far each variant's outputs are from those expected, float64[n] for n inputs."""
        view = signal.view or flat_outputs
        measured: list[tuple[Variant, Scores]] = []
        for index, output in self.outputs(variants, inputs):
            measured.append((variants[index], signal.of(expected, view(output))))
            self.samples += batch_size(inputs)
            del output
        return measured

    def _known(self, variant: Variant, split: str, batch: int) -> Scores:
        scores = self.journal.scores(variant, split, batch)
        assert scores is not None, "measured just before"
        return scores


def _at_least(samples: int, inputs: Any, simulator: Simulator) -> Any:
    """The first samples of a batch, all of it where it has to stay whole."""
    return (
        inputs
        if simulator.smallest is None
        else first_samples(inputs, max(samples, simulator.smallest))
    )


def _no_progress(steps: int, samples: int) -> None:
    """Nothing is forwarded."""


def checked_scores(task: Task, output: Any, targets: Any, size: int, where: str) -> Scores:
    """The task's scores of one batch, float64. Raises TaskError if the user's function fails or
    returns anything else."""
    try:
        scores = scores_of(task.score(output, targets))
    except Exception as error:
        raise user_error("task.score", where, error) from error
    if scores.ndim == 0 or len(scores) != size:
        got = "a single number" if scores.ndim == 0 else f"{len(scores)} scores"
        raise TaskError(
            f"Expected task.score to return one score for each of the {size} samples{where}, got "
            f"{got}; return an array whose first axis is the sample."
        )
    if not np.isfinite(scores).all():
        bad = int(np.argwhere(~np.isfinite(scores))[0][0])
        raise TaskError(
            f"Expected task.score to return finite scores{where}, got {scores[bad]} for sample "
            f"{bad}; check the metric on this sample."
        )
    return scores


def check_values(scores: Scores, before: tuple[int, ...], where: str) -> None:
    """Raise TaskError where samples have another number of values than those `before`: they could
    not be joined."""
    if scores.shape[1:] != before:
        raise TaskError(
            f"Expected task.score to return as many values for each sample{where} as before, got "
            f"shape {list(scores.shape[1:])} and {list(before)} before; pad them to one shape."
        )


def user_error(what: str, where: str, error: Exception) -> SensitivityError:
    """One sentence for an exception out of the user's own code, with the place where it was
    raised."""
    if isinstance(error, SensitivityError):
        return error
    said = " ".join(str(error).split())[:300]
    return TaskError(
        f"Expected {what} to return{where}, got {type(error).__name__}: {said}{_place(error)}."
    )


def _place(error: Exception) -> str:
    """The last line of the user's own that an exception came through; "" where it came through
    none."""
    own = str(Path(__file__).parents[1])
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(own)
    ]
    users = [frame for frame in frames if "site-packages" not in frame.filename]
    if not frames:
        return ""
    last = (users or frames)[-1]
    return f" ({last.filename}:{last.lineno})"
