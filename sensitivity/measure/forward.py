"""Forwards variants batch by batch, and scores or compares their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.allocator import trim_heap
from sensitivity.measure.checked import checked_scores
from sensitivity.measure.reader import Reader
from sensitivity.records import Range, Scores, Variant
from sensitivity.signals.base import Distance, Outputs, Signal
from sensitivity.signals.distortion import flat_outputs
from sensitivity.simulators.base import Simulator
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import batch_size, first_samples
from sensitivity.tasks.kept import KeptOutputs, Place

MakeSimulator = Callable[[tuple[Range, ...]], Simulator]
Fit = tuple[str, str, int]
"""A signal's name, the key of a reference, and a number of samples."""


@dataclass(frozen=True)
class Comparison:
    """One batch of `rank` on which outputs are compared.

    signal: measures how far outputs are apart.
    reference: variant whose outputs the others are compared with.
    samples: number of samples compared in all, the first ones of `rank`.
    batch: number of the batch.
    by_looks: whether they are compared on more and more of these samples, until an answer is clear.
        The parts of batches that are seen then differ.
    """

    signal: Signal
    reference: Variant
    samples: int
    batch: int
    by_looks: bool = False

    @property
    def split(self) -> str:
        """The name under which a journal keeps the values."""
        looks = " by looks" if self.by_looks else ""
        return f"rank: {self.signal.name}{self.signal.edition}, first {self.samples}{looks}"

    @property
    def fit(self) -> Fit:
        """The data that a fitted signal is fitted to."""
        return self.signal.name, self.reference.key, self.samples

    def place(self, samples: int) -> tuple[str, int]:
        """Return the key under which the reference's outputs of this many samples are kept."""
        return f"{self.split}, {self.reference.key}, {samples}", self.batch


@dataclass(frozen=True)
class Used:
    """Facts about the simulator that was used, as in `Simulator`."""

    name: str
    reason: str
    warnings: tuple[str, ...]


class Forwarder:
    """A task, and the simulator that forwards variants of its model.

    samples: number of samples forwarded so far (one variant on one sample counts one).
    references: outputs of the float model, which are the same whatever ranges variants have.
    condensed: what a soft drop that `Condenses` needs of the float model's outputs of a batch.
    keeps: key of a variant whose outputs are also kept when it is scored -> what is added to the
        name of the split under which they are kept.
    """

    def __init__(self, task: Task, simulator: MakeSimulator) -> None:
        """Set the task and its simulator.

        simulator: makes a simulator that has these candidate ranges. It is called when the first
            sample has to be forwarded, and again when other ranges are needed.
        """
        self.task = task
        self.samples = 0
        self.references = KeptOutputs()
        self.condensed: dict[Place, Any] = {}
        self.keeps: dict[str, str] = {}
        self._make_simulator = simulator
        self._simulator: Simulator | None = None
        self._candidates: tuple[Range, ...] = ()
        self._distances: dict[Fit, Distance] = {}
        self._fits: dict[Fit, int] = {}

    def use_candidates(self, ranges: Iterable[Range]) -> None:
        """Set the ranges that variants will use from now on, so that one simulator serves them
        all."""
        wanted = tuple(dict.fromkeys(ranges))
        if not set(wanted) <= set(self._candidates):
            self._candidates = wanted
            self.drop_simulator()
            trim_heap()

    def drop_simulator(self) -> None:
        """Delete the simulator. Another one is made when it is needed."""
        self._simulator = None

    def outputs(self, variants: Sequence[Variant], inputs: Any) -> Iterator[tuple[int, Any]]:
        """Yield the index of each variant, and its outputs for these inputs; nothing is scored or
        kept."""
        return self._simulator_for(variants).outputs(
            inputs, [variant.switched for variant in variants]
        )

    @property
    def simulator(self) -> Simulator:
        """The simulator in use, made if there is none."""
        if self._simulator is None:
            self._simulator = self._make_simulator(self._candidates)
        return self._simulator

    def candidates_for(self, variants: Iterable[Variant]) -> tuple[Range, ...]:
        """Return the candidate ranges, after adding those of these variants."""
        needed = frozenset[Range]().union(*(variant.ranges for variant in variants))
        if not needed.issubset(self._candidates):
            self.use_candidates([*self._candidates, *sorted(needed, key=attrgetter("key"))])
        return self._candidates

    def _simulator_for(self, variants: Iterable[Variant]) -> Simulator:
        self.candidates_for(variants)
        return self.simulator

    def simulator_used(self) -> Used | None:
        """Return the facts about the simulator; None if nothing has been forwarded."""
        simulator = self._simulator
        if simulator is None:
            return None
        return Used(simulator.name, simulator.reason, tuple(simulator.warnings))

    def fitted_on(self, comparison: Comparison) -> int:
        """Return the number of samples that were forwarded to fit the signal; 0 if it was not
        fitted."""
        return self._fits.get(comparison.fit, 0)

    def scored(
        self, variants: Sequence[Variant], inputs: Any, targets: Any, place: Place
    ) -> Iterator[tuple[int, Scores]]:
        """Yield the index of each variant, and its scores on one batch, in the simulator's order.

        place: the split and the number of the batch.

        Raises TaskError as `checked_scores` does.
        """
        split, batch = place
        size, where = batch_size(inputs), f" on batch {batch} of split {split!r}"
        for index, output in self.outputs(variants, inputs):
            yield index, checked_scores(self.task, output, targets, size, where)
            self.samples += size
            kept_as = self.keeps.get(variants[index].key)
            if kept_as is not None:
                self.keep_reference((split + kept_as, batch), output)
            del output  # not kept while the next one is computed

    def keep_reference(self, place: Place, output: Any) -> Any:
        """Keep a copy of a variant's outputs for a batch, and return it. The next forward may
        overwrite the outputs themselves."""
        known = deepcopy(output)
        self.references.keep(place, known)
        return known

    def distorted(
        self, comparison: Comparison, variants: Sequence[Variant], inputs: Any, wanted: int
    ) -> Iterator[tuple[int, Scores]]:
        """Yield the index of each variant, and how far its outputs are from those of the reference,
        float64[n], in the simulator's order.

        wanted: number of samples to compare, the first of the batch; more are compared if it has to
            stay whole.
        """
        simulator = self._simulator_for(variants)
        signal = self._fitted(comparison)
        part = _at_least(wanted, inputs, simulator)
        view = signal.view or flat_outputs
        expected = self._known_reference(comparison, part)
        for index, output in self.outputs(variants, part):
            self.samples += batch_size(part)
            yield index, signal.of(expected, view(output))
            del output

    def _known_reference(self, comparison: Comparison, inputs: Any) -> Outputs:
        """Return the reference's outputs, which are kept for the next variants that are compared
        with it on this batch."""
        place = comparison.place(batch_size(inputs))
        known: Outputs | None = self.references.get(place)
        if known is None:
            known = self._reference(comparison, inputs)
            self.references.keep(place, known)
        return known

    def _fitted(self, comparison: Comparison) -> Signal:
        """Return the signal with its distance fitted on the first samples of `rank`."""
        signal = comparison.signal
        if signal.fitted is None:
            return signal
        key, before = comparison.fit, self.samples
        if key not in self._distances:
            self._distances[key] = signal.fitted(self._references(comparison))
            self._fits[key] = self.samples - before
        return replace(signal, of=self._distances[key], fitted=None)

    def _references(self, comparison: Comparison) -> Iterator[Outputs]:
        """Yield the reference's outputs on the first samples of `rank`, batch by batch."""
        reader, open_ = Reader(self.task, "rank"), comparison.samples
        for batch in range(reader.count):
            inputs = _at_least(open_, reader.at(batch)[0], self.simulator)
            # Kept, since the variants are compared with the same outputs next.
            yield self._known_reference(replace(comparison, batch=batch), inputs)
            open_ -= batch_size(inputs)
            if open_ <= 0:
                return

    def _reference(self, comparison: Comparison, inputs: Any) -> list[NDArray[np.floating]]:
        ((_, output),) = self.outputs([comparison.reference], inputs)
        self.samples += batch_size(inputs)
        return [array.copy() for array in (comparison.signal.view or flat_outputs)(output)]


def _at_least(samples: int, inputs: Any, simulator: Simulator) -> Any:
    """Return the first samples of a batch, or all of it if it has to stay whole."""
    return (
        inputs
        if simulator.smallest is None
        else first_samples(inputs, max(samples, simulator.smallest))
    )
