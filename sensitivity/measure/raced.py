"""A scan that spends samples only while the order of units is open.

1. A cheap signal on few samples orders all units: how far the outputs move when one unit alone is
   quantized.
2. The metric is measured on the first batch for as many units as the budget allows. Then it is
   measured only for the most promising units, batch by batch, until the order of the first units is
   settled or the budget is spent. Evidence may be looked at after every batch (`stats.sequential`).
3. Units that the metric can tell apart are ordered by it. All others are ordered by the signal and
   marked as ties. A unit without a measured metric has an effect of no samples.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sensitivity.measure.measurer import Measurer
from sensitivity.measure.ranking import centred, estimate, per_sample
from sensitivity.measure.reader import Reader
from sensitivity.measure.scan import Scan
from sensitivity.measure.study import Study
from sensitivity.measure.variants import BASE_OF
from sensitivity.records import Effect, Estimate, Mode, Scores, Variant, names_of
from sensitivity.signals.base import Signal
from sensitivity.stats.racing import standing
from sensitivity.stats.sequential import confidence_sequence, log_evidence
from sensitivity.tasks.base import Task, mean
from sensitivity.tasks.batches import batch_size

SIGNAL_SAMPLES = 16
"""Number of samples on which the signal of every unit is measured before any race."""

CONTENDERS = 8
"""Number of units that race on the metric once the signal has ordered all of them."""

GROUP = 4
"""Size of the best group: the race finds which contenders belong to it, up to differences that do
not matter."""

TOLERANCE = 0.005
"""Difference that does not matter, as a fraction of the metric's full scale: half a point."""

LOOK_AGAIN = 1.25
"""Factor by which the number of samples grows before the race is judged again, because a look costs
time if the metric is not a mean."""

ALPHA = 0.05

RACE_SAMPLES = 1000
"""Number of samples that is enough for intervals of the first few units; the plan is judged on
other samples."""

EXACT_UP_TO = 20_000
"""Number of samples up to which it is affordable to measure every unit on the whole split."""

EXACT_VALUES = 4 * 10**9
"""The same in values of the inputs, because a sample of many values takes longer: 3,255 images of
640x640."""

EXACT_IF_COLLAPSED = 5_000
"""The same for a model that has collapsed with everything in INT8, where no plan follows from the
metric of single units."""

FEW_SAMPLES = 4
"""Number of samples in place of SIGNAL_SAMPLES for a collapsed model, because what ruins it shows
on any sample."""

COSTLY_SAMPLES = 8
"""Number of samples in place of SIGNAL_SAMPLES if samples are so large that few of them reach
EXACT_VALUES. Such outputs hold thousands of boxes or pixels each."""


@dataclass(frozen=True)
class Budget:
    """Limits of a race.

    samples: number of samples to measure, at most, baselines included. The first batch does not
        count: all contenders get it. None means no limit.
    seconds: time after which no batch is begun; None means no limit.
    entrants: number of units that get the first batch, at most; None means as many as the samples
        allow. The contenders always get it.

    With a time budget, a resumed scan may end elsewhere than an uninterrupted one; with a sample
    budget it does not.
    """

    samples: int | None = RACE_SAMPLES
    seconds: float | None = None
    entrants: int | None = None

    def allows(self, samples: int, seconds: float) -> bool:
        """Return whether another batch may be begun.

        samples: number of samples measured once the batch is done.
        seconds: time passed so far.
        """
        has_time = self.seconds is None or seconds <= self.seconds
        has_samples = self.samples is None or samples <= self.samples
        return has_time and has_samples


COLLAPSED_BUDGET = Budget(400)
"""Budget of the race for a model that has collapsed with everything in INT8."""

COSTLY_RACE = 400
"""Number of samples in place of RACE_SAMPLES if samples are large: 32 images for the contenders and
the baselines. On 50, effects of layers of YOLOv8n have intervals of 8 to 14 points on either
side."""

COSTLY_BUDGET = Budget(COSTLY_RACE, entrants=CONTENDERS)
"""Budget of the race if samples are so large that few of them reach EXACT_VALUES."""

COSTLY_COLLAPSED_BUDGET = Budget(COSTLY_RACE // 2, entrants=CONTENDERS)
"""Budget of the race if both are the case: 16 images for the contenders and the baselines, in place
of 8 for 46 units."""


def measured_signal(
    study: Study, signal: Signal, samples: int = SIGNAL_SAMPLES
) -> dict[str, float]:
    """Return the mean distortion with each unit alone quantized, by unit, on about the first
    `samples` samples of `rank`.

    A few more samples are measured if batches have to stay whole.
    """
    variants = [study.unit_variant(unit, "enable") for unit in study.units]
    values = study.measurer.distortion(signal, variants, study.float_variant, samples)
    names = names_of(study.units)
    return {name: float(np.mean(value)) for name, value in zip(names, values, strict=True)}


def raced_scan(study: Study, mode: Mode, signal: Mapping[str, float], budget: Budget) -> Scan:
    """Rank the units within a budget.

    signal: unit -> distortion, >= 0, for all units.
    """
    measurer, base = study.measurer, study.baselines
    by_signal = sorted(study.units, key=lambda unit: -signal[unit.name])
    entrants = {unit.name: study.unit_variant(unit, mode) for unit in by_signal}
    race = _Race(measurer, base, entrants, mode)
    race.run(budget)
    order = race.order()
    return Scan(
        mode=mode,
        baselines={name: estimate(race.scores[name], measurer.task.aggregate) for name in base},
        effects=tuple(race.effect(order, rank) for rank in range(1, len(order) + 1)),
        signal={name: signal[name] for name in order},
    )


class _Race:
    """Scores of baselines and units, as far as they have been measured."""

    def __init__(
        self,
        measurer: Measurer,
        base: Mapping[str, Variant],
        entrants: Mapping[str, Variant],
        mode: Mode,
    ) -> None:
        """Set the variants that race.

        base: baselines by name.
        entrants: variant of each unit, the strongest signal first.
        """
        self.scores: dict[str, Scores] = {}
        self._measurer = measurer
        self._base = base
        self._entrants = entrants
        self._reference = BASE_OF[mode]
        self._sign = 1 if mode == "disable" else -1
        self._per_sample: dict[tuple[str, int], Scores] = {}

    def run(self, budget: Budget) -> None:
        """Measure until the order of the first units is settled, or the budget is spent."""
        task = self._measurer.task
        data = task.data["rank"]
        reader, start, spent = Reader(task, "rank"), time.monotonic(), 0
        size = batch_size(next(iter(data))[0])
        running, looked = self._first(budget, size), 0
        most = len(self._base) + len(running) + (len(data) - 1) * (len(self._base) + CONTENDERS)
        with self._measurer.progress("race on the metric", most) as advance:
            for batch in range(len(data)):
                variants = {**self._base, **{name: self._entrants[name] for name in running}}
                wanted = spent + size * len(variants)
                if batch > 0 and not budget.allows(wanted, time.monotonic() - start):
                    return
                measured = self._measurer.batch(
                    list(variants.values()), "rank", batch, reader, advance
                )
                for name, scores in zip(variants, measured, strict=True):
                    before = self.scores.get(name, scores[:0])
                    self.scores[name] = np.concatenate([before, scores])
                spent += len(measured[0]) * len(variants)
                seen = len(self.scores[self._reference])
                if batch == 0 or seen >= LOOK_AGAIN * looked:
                    looked = seen
                    running = self._open(list(self._entrants)[:CONTENDERS])
                if not running:
                    return

    def _first(self, budget: Budget, size: int) -> list[str]:
        """Return the units that get the first batch.

        size: number of samples of a batch.
        """
        entrants = list(self._entrants)[: budget.entrants]
        if budget.samples is None:
            return entrants
        room = budget.samples // size - len(self._base)
        return entrants[: max(room, CONTENDERS)]

    def _open(self, contenders: Sequence[str]) -> list[str]:
        """Return the contenders whose place is not settled yet."""
        if len(contenders) <= GROUP:
            return list(contenders)
        gains = [self.gain(name) for name in contenders]
        values = np.full((len(gains), max(map(len, gains))), np.nan)
        for row, gain in zip(values, gains, strict=True):
            row[: len(gain)] = gain
        scale = self._measurer.task.full_scale
        now = standing(
            values, GROUP, None, tolerance=TOLERANCE * scale, alpha=ALPHA, bound=self.bound
        )
        return [contenders[index] for index in sorted(now.open)]

    @property
    def bound(self) -> float | None:
        """Largest difference of two scores of one sample; None if it is not known."""
        return score_bound(self._measurer.task, self.scores[self._reference])

    def gain(self, name: str) -> Scores:
        """Return the per-sample gain of a unit over the reference, on the samples it was measured
        on; a loss in mode `enable`."""
        own = len(self.scores.get(name, ()))
        return self._sign * (self._values(name, own) - self._values(self._reference, own))

    def _values(self, name: str, samples: int) -> Scores:
        if samples == 0:
            return np.empty(0)
        if (name, samples) not in self._per_sample:
            scores = self.scores[name][:samples]
            self._per_sample[name, samples] = per_sample(scores, self._measurer.task.aggregate)
        return self._per_sample[name, samples]

    def order(self) -> list[str]:
        """Return the units by signal, except that no unit stands right after one that the metric
        proves less sensitive."""
        order = list(self._entrants)
        for end in range(len(order) - 1, 0, -1):
            for index in range(end):
                if self._better(order[index + 1], order[index]):
                    order[index], order[index + 1] = order[index + 1], order[index]
        return order

    def _better(self, one: str, other: str) -> bool:
        """Return whether the metric proves that one unit is more sensitive than the other, with the
        error shared among all pairs of units."""
        ours, theirs = self.gain(one), self.gain(other)
        shared = min(len(ours), len(theirs))
        if shared == 0:
            return False
        pairs = len(self._entrants) * (len(self._entrants) - 1)
        evidence = log_evidence(ours[:shared] - theirs[:shared], 0.0, None, bound=self.bound)
        return bool(evidence.max() >= np.log(pairs / ALPHA))

    def effect(self, order: Sequence[str], rank: int) -> Effect:
        name, aggregate = order[rank - 1], self._measurer.task.aggregate
        told_apart = (
            above
            for above, other in enumerate(order[: rank - 1], 1)
            if not self._better(other, name)
        )
        tie = next(told_apart, rank)
        if name not in self.scores:
            return Effect(
                rank,
                tie,
                name,
                Estimate(0.0, None, None, 0),
                aggregate(self.scores[self._reference]),
            )
        scores = self.scores[name]
        interval = confidence_sequence(self.gain(name), None, alpha=ALPHA, bound=self.bound)
        metric = aggregate(scores)
        value = self._sign * (metric - aggregate(self.scores[self._reference][: len(scores)]))
        return Effect(rank, tie, name, centred(interval, value, len(scores)), metric)


def score_bound(task: Task, scores: Scores) -> float | None:
    """Return the largest possible difference of two scores of one sample; None if the metric does
    not say.

    scores: scores of a baseline, which show whether the metric keeps to its scale.
    """
    keeps_to_scale = (
        task.aggregate is mean
        and scores.ndim == 1
        and scores.min() >= 0
        and scores.max() <= task.full_scale
    )
    return task.full_scale if keeps_to_scale else None
