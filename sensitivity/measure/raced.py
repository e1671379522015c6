"""A scan that spends samples only where the order of units is still open.

1. A cheap signal on few samples orders all units: how far the outputs move when one unit alone is
   quantized.
2. The metric on the first batch of as many units as the budget has room for, then only of the most
   promising ones, batch by batch, until the order of the first is settled or the budget is spent.
   Evidence may be looked at after every batch (`stats.sequential`).
3. Units that the metric can tell apart are ordered by it, all others by the signal, and marked as
   ties. A unit that the metric was not spent on has an effect of no samples.
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
"""Samples on which the signal of every unit is measured before any race."""

CONTENDERS = 8
"""Units that race on the metric once the signal has ordered all of them."""

GROUP = 4
"""The race asks which of the contenders are the best so many, up to differences that do not
matter."""

TOLERANCE = 0.005
"""Part of the metric's full scale that does not matter: half a point."""

LOOK_AGAIN = 1.25
"""The race is judged whenever this many times as many samples were seen: a look costs time where
the metric is no mean."""

ALPHA = 0.05

RACE_SAMPLES = 1000
"""Enough for an interval of the first few units; the plan is judged on other samples."""

EXACT_UP_TO = 20_000
"""Samples up to which measuring every unit whole is affordable."""

EXACT_IF_COLLAPSED = 5_000
"""The same where everything in INT8 has collapsed: no plan follows from the metric of single units
then."""

FEW_SAMPLES = 4
"""Samples in place of SIGNAL_SAMPLES there: what ruins a model shows on any sample."""


@dataclass(frozen=True)
class Budget:
    """samples: most to measure in the race, baselines included, but for the first batch, which all
    contenders get.
    seconds: after which no batch is begun. None: no limit.

    A time budget ends a resumed scan elsewhere than an uninterrupted one; a sample budget does not.
    """

    samples: int | None = RACE_SAMPLES
    seconds: float | None = None

    def allows(self, samples: int, seconds: float) -> bool:
        """Return whether a batch may be begun with which so many samples will be measured, when so
        many seconds have passed."""
        has_time = self.seconds is None or seconds <= self.seconds
        has_samples = self.samples is None or samples <= self.samples
        return has_time and has_samples


COLLAPSED_BUDGET = Budget(400)
"""The budget of the race where everything in INT8 has collapsed."""


def measured_signal(
    study: Study, signal: Signal, samples: int = SIGNAL_SAMPLES
) -> dict[str, float]:
    """Unit -> mean distortion when it alone is quantized, on the first `samples` samples of `rank`,
    or just more."""
    variants = [study.unit_variant(unit, "enable") for unit in study.units]
    values = study.measurer.distortion(signal, variants, study.float_variant, samples)
    names = names_of(study.units)
    return {name: float(np.mean(value)) for name, value in zip(names, values, strict=True)}


def raced_scan(study: Study, mode: Mode, signal: Mapping[str, float], budget: Budget) -> Scan:
    """Rank the units within a budget. signal: unit -> distortion >= 0, for all units."""
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
    """Scores of baselines and units, as far as they have been measured. entrants: by signal, the
    strongest first."""

    def __init__(
        self,
        measurer: Measurer,
        base: Mapping[str, Variant],
        entrants: Mapping[str, Variant],
        mode: Mode,
    ) -> None:
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
        """Return the units that get the first batch. size: samples of a batch."""
        entrants = list(self._entrants)
        if budget.samples is None:
            return entrants
        room = budget.samples // size - len(self._base)
        return entrants[: max(room, CONTENDERS)]

    def _open(self, contenders: Sequence[str]) -> list[str]:
        """Contenders whose place is not settled yet."""
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
        """The largest difference of two scores of one sample, where that is known."""
        return score_bound(self._measurer.task, self.scores[self._reference])

    def gain(self, name: str) -> Scores:
        """Return per-sample gain of a unit over the reference, on the samples it was measured on; a
        loss in mode `enable`."""
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
        """By signal, except that no unit stands right behind one that the metric knows to be less
        sensitive."""
        order = list(self._entrants)
        for end in range(len(order) - 1, 0, -1):
            for index in range(end):
                if self._better(order[index + 1], order[index]):
                    order[index], order[index + 1] = order[index + 1], order[index]
        return order

    def _better(self, one: str, other: str) -> bool:
        """Return whether the metric proves that one unit is more sensitive than the other, all
        pairs of units together."""
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
    """Return the largest difference that two scores of one sample can have; None where the metric
    does not say.

    scores: of a baseline, to see that they keep to the metric's scale.
    """
    keeps_to_scale = (
        task.aggregate is mean
        and scores.ndim == 1
        and scores.min() >= 0
        and scores.max() <= task.full_scale
    )
    return task.full_scale if keeps_to_scale else None
