"""The jobs of a worker, and its answers."""

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
    """How the outputs of a job are compared.

    signal: name of the signal.
    reference, samples: as in `Comparison`.
    wanted: number of samples of the batch to compare, at least.
    """

    signal: str
    reference: Variant
    samples: int
    wanted: int


@dataclass(frozen=True)
class Work:
    """Variants to be measured on one batch.

    split, batch: the split and the number of the batch.
    variants: the variants.
    candidates: ranges that any variant will use.
    compared: how to compare their outputs; None to score them.
    """

    split: str
    batch: int
    variants: tuple[Variant, ...]
    candidates: tuple[Range, ...]
    compared: Compared | None = None


@dataclass(frozen=True)
class Measured:
    """A worker's answer.

    measured: index of each variant and its scores, in the order in which they were measured.
    digest: digest of the whole batch.
    size: number of samples of the whole batch.
    used: facts about the simulator.
    fitted: number of samples that were forwarded to fit the signal.
    """

    measured: list[tuple[int, Scores]]
    digest: str
    size: int
    used: Used
    fitted: int = 0


class Hand:
    """Worker's part of the measuring: it does the jobs that it is given, on a task of its own."""

    def __init__(self, task: Task, simulator: MakeSimulator) -> None:
        self._forwarder = Forwarder(task, simulator)
        self._readers: dict[str, tuple[Reader, int]] = {}

    def __call__(self, work: Work) -> Measured:
        """Measure one job. Raises what scoring and forwarding raise."""
        forwarder, compared = self._forwarder, work.compared
        forwarder.use_candidates(work.candidates)
        inputs, targets = self._read(work.split, work.batch)
        size, fitted = batch_size(inputs), 0
        if compared is None:
            place = work.split, work.batch
            measured = list(forwarder.scored(work.variants, inputs, targets, place))
        else:
            signal = distortion_signal(compared.signal, forwarder.task)
            comparison = Comparison(signal, compared.reference, compared.samples, work.batch)
            measured = list(forwarder.distorted(comparison, work.variants, inputs, compared.wanted))
            fitted = forwarder.fitted_on(comparison)
        used = forwarder.simulator_used()
        assert used is not None, "variants were forwarded"
        return Measured(measured, batch_digest(inputs, targets), size, used, fitted)

    def _read(self, split: str, batch: int) -> tuple[object, object]:
        """Return the batch, from a new reader if the old one is past it."""
        reader, following = self._readers.get(split, (None, 0))
        if reader is None or batch < following:
            reader = Reader(self._forwarder.task, split)
        self._readers[split] = reader, batch + 1
        return reader.at(batch)
