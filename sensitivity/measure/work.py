"""What a worker is asked to measure, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from sensitivity.measure.forward import Comparison, Forwarder, MakeSimulator, Used
from sensitivity.measure.reader import Reader
from sensitivity.records import Range, Scores, Variant
from sensitivity.signals.choose import distortion_signal
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import batch_digest, batch_size


@dataclass(frozen=True)
class Compared:
    """signal: its name. The rest is as in `Comparison`. wanted: samples of the batch, at least."""

    signal: str
    reference: Variant
    samples: int
    wanted: int


@dataclass(frozen=True)
class Work:
    """Variants to be measured on one batch. offered: the ranges that any variant will use.
    compared: what their outputs are compared with; None to score them."""

    split: str
    batch: int
    variants: tuple[Variant, ...]
    offered: tuple[Range, ...]
    compared: Compared | None = None


@dataclass(frozen=True)
class Measured:
    """measured: place in the work's variants, and scores, in the order in which they were measured.
    digest, size: of the whole batch. used: the simulator. fitted: samples that were forwarded to
    fit the signal."""

    measured: list[tuple[int, Scores]]
    digest: str
    size: int
    used: Used
    fitted: int = 0


class Hand:
    """Measures what it is asked to, on a task of its own."""

    def __init__(self, task: Task, simulator: MakeSimulator) -> None:
        self._forwarder = Forwarder(task, simulator)
        self._readers: dict[str, tuple[Reader, int]] = {}

    def __call__(self, work: Work) -> Measured:
        """Measure one job. Raises what scoring and forwarding raise."""
        forwarder, compared = self._forwarder, work.compared
        forwarder.offer(work.offered)
        inputs, targets = self._read(work.split, work.batch)
        size, fitted = batch_size(inputs), 0
        if compared is None:
            where = f" on batch {work.batch} of split {work.split!r}"
            measured = list(forwarder.scored(work.variants, inputs, targets, where))
        else:
            signal = distortion_signal(compared.signal, forwarder.task)
            comparison = Comparison(signal, compared.reference, compared.samples, work.batch)
            measured = forwarder.distorted(comparison, work.variants, inputs, compared.wanted)
            fitted = forwarder.fitted_on(comparison)
        used = forwarder.simulator_used()
        assert used is not None, "variants were forwarded"
        return Measured(measured, batch_digest(inputs, targets), size, used, fitted)

    def _read(self, split: str, batch: int) -> tuple[object, object]:
        """Return the batch, from a reader that is opened anew where it is past it."""
        reader, following = self._readers.get(split, (None, 0))
        if reader is None or batch < following:
            reader = Reader(self._forwarder.task, split)
        self._readers[split] = reader, batch + 1
        return reader.at(batch)
