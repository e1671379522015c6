"""Other ranges before other precision: a unit that recovers with one stays in INT8, at no cost in
speed.

1. Which range: of each quantizer alone, the one that moves the outputs least, on few samples.
   Nothing else is quantized then, so that no other unit hides what it does.
2. Whether to take it, on all of `rank`: all at once where that credibly helps, else unit by unit,
   the worst first, on top of those taken before.
`confirm` and `holdout` are not touched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain

import numpy as np

from sensitivity.measure.ranking import gain, per_sample
from sensitivity.measure.soft import Compared, Comparer
from sensitivity.measure.study import Study
from sensitivity.records import Estimate, Range, Recalibrated, Scores, Unit, Variant, names_of
from sensitivity.signals.base import Signal
from sensitivity.stats.paired import paired_effect

WORST = 32
"""Units that are tried, from the top of the ranking."""

SIGNAL_SAMPLES = 64
TOGETHER_SAMPLES = 16
"""For methods that are tried on all of a model at once, which differ by much."""

ALPHA = 0.05

Ranges = tuple[Range, ...]


@dataclass(frozen=True)
class Place:
    """Quantizers that share a range, mostly one alone, and the ranges that they could have.

    choices: for each method, one range for each of the quantizers.
    """

    own: tuple[Range, ...]
    choices: tuple[Ranges, ...]

    @property
    def quantizers(self) -> frozenset[str]:
        return frozenset(one.quantizer for one in self.own)


def places_of(
    quantizers: Iterable[str],
    own: Mapping[str, Range],
    other: Iterable[Range],
    scales: Iterable[Sequence[str]],
) -> tuple[Place, ...]:
    """The places of these quantizers that have any other range.

    own: of every quantizer in them. other: ranges of single quantizers. scales: groups that share
    one range: what a method finds for such a group is the widest range that it finds for a member.
    """
    group_of = {name: tuple(group) for group in scales for name in group}
    by_method: dict[str, dict[str, Range]] = {}
    for one in other:
        by_method.setdefault(one.method, {})[one.quantizer] = one
    found = []
    for group in dict.fromkeys(group_of.get(name, (name,)) for name in quantizers):
        tried = [_shared(group, ranges) for ranges in by_method.values()]
        choices = tuple(choice for choice in tried if choice)
        if choices:
            found.append(Place(tuple(own[name] for name in group), choices))
    return tuple(found)


def _shared(group: tuple[str, ...], ranges: Mapping[str, Range]) -> Ranges:
    found = [ranges[name] for name in group if name in ranges]
    stands_alone = len(group) == 1
    if stands_alone or not found:
        return tuple(found)
    method = found[0].method
    largest = max(one.amax[0] for one in found)
    lows = [one.low for one in found if one.low is not None]
    lowest = min(lows, default=None)
    return tuple(Range(name, method, (largest,), low=lowest) for name in group)


def recalibrate_together(
    study: Study, places: Sequence[Place], *, skip: Sequence[str] = (), signal: Signal
) -> tuple[Recalibrated, ...]:
    """Ranges of one method for all weights, then for all activations: for a model that has
    collapsed, where a unit more or less shows nothing.

    Weights are judged with nothing else quantized, and so are activations: the method with which
    the outputs are nearest to float's is taken, where that is credibly nearer than the own ranges.
    The metric on `rank` must credibly rise. Where it stays at nothing, something else ruins the
    model, and nothing shows what the ranges do to the rest: a percentile may cut off the few
    confidences of a detector that matter.
    """
    measurer = study.measurer
    every = study.float_variant.disabled
    weights = {quantizer.name for quantizer in study.quantizers if quantizer.role == "weight"}
    left_out = study.skip_variant(skip).disabled
    taken: list[Ranges] = []
    for kind in (weights, every - weights):
        mine = [place for place in places if place.quantizers <= kind]
        base = Variant("together", left_out | (every - kind))
        choice = _nearest(study, base, _by_method(mine), signal)
        taken += [choice] if choice else []
    if not taken:
        return ()
    tries = list(accumulate(taken, initial=Ranges()))
    measurer.offer(tries[-1])
    scores = measurer.scores(
        [Variant("recalibrated", left_out, frozenset(one)) for one in tries],
        "rank",
        "recalibrate: together",
    )
    values = [measurer.aggregate(each) for each in scores]
    best = max(range(len(tries)), key=lambda at: (values[at], at))
    brought = gain(scores[0], scores[best], measurer.task.aggregate)
    if not _credibly_rises(brought):
        return ()
    return _of_units(study.units, places, tries[best], brought)


def _by_method(places: Iterable[Place]) -> dict[str, Ranges]:
    """Method -> its ranges for all of these places that have any."""
    found: dict[str, Ranges] = {}
    for choice in _choices_of(places):
        found[choice[0].method] = (*found.get(choice[0].method, ()), *choice)
    return found


def _nearest(study: Study, base: Variant, choices: Mapping[str, Ranges], signal: Signal) -> Ranges:
    """The choice with which the outputs are nearest to float's; empty where none is credibly nearer
    than the own ranges."""
    if not choices:
        return ()
    tried = list(choices.values())
    study.measurer.offer(chain.from_iterable(tried))
    variants = [replace(base, ranges=frozenset(choice)) for choice in ((), *tried)]
    own, *others = study.measurer.distortion(
        signal, variants, study.float_variant, TOGETHER_SAMPLES
    )
    best = _least_moved(others)
    return tried[best] if is_above(own, others[best], ALPHA / len(tried)) else ()


def _least_moved(distances: Sequence[Scores]) -> int:
    """The position of the variant whose outputs are the nearest to float's. distances: of each."""
    return min(range(len(distances)), key=lambda at: float(np.mean(distances[at])))


def _of_units(
    units: Sequence[Unit], places: Sequence[Place], choice: Ranges, brought: Estimate
) -> tuple[Recalibrated, ...]:
    """Each range with the first unit that has a quantizer of its place."""
    new = {one.quantizer: one for one in choice}
    names = names_of(units)
    found = []
    for name, mine in shares(names, units, places).items():
        before = _own_of(mine, new)
        if not before:
            continue
        ranges = tuple(new[one.quantizer] for one in before)
        found.append(recalibrated_unit(name, before, ranges, brought, together=True))
    return tuple(found)


def _own_of(places: Iterable[Place], quantizers: Collection[str]) -> Ranges:
    """The own ranges of these quantizers, in the order of their places."""
    own = chain.from_iterable(place.own for place in places)
    return tuple(one for one in own if one.quantizer in quantizers)


def recalibrated_unit(
    unit: str, before: Ranges, ranges: Ranges, brought: Estimate, *, together: bool = False
) -> Recalibrated:
    """The record of a unit with these ranges, whose methods it names, each once."""
    method = ", ".join(dict.fromkeys(one.method for one in ranges))
    return Recalibrated(unit, method, before, ranges, brought, together=together)


def recalibrate(
    study: Study,
    order: Sequence[str],
    places: Sequence[Place],
    *,
    skip: Sequence[str] = (),
    signal: Signal | None = None,
) -> tuple[Recalibrated, ...]:
    """The units whose other ranges are worth taking, in the order taken.

    order: names of the units to try, worst first. skip: units left unquantized throughout.
    signal: of how far outputs have moved; None where there are no outputs, and the metric alone
    chooses.
    """
    if not places:
        return ()  # nothing of the model has a range that can be changed
    study.measurer.offer(chain.from_iterable(_choices_of(places)))
    trials, places_of_unit = _Trials(study, skip), shares(order, study.units, places)
    if signal is None:
        for name, mine in places_of_unit.items():
            trials.best_of(name, mine, _choices_of(mine))
        return trials.worth()
    closer = closer_choices(study, places, signal)
    changes = []
    for name, mine in places_of_unit.items():
        found = [place for place in mine if place in closer]
        if found:
            choice = sum(map(closer.__getitem__, found), Ranges())
            changes.append(Change(name, found, choice))
    at_once = trials.all_of(changes)
    if at_once:
        return at_once
    for change in changes:
        trials.add(change)
    return trials.worth()


def _choices_of(places: Iterable[Place]) -> list[Ranges]:
    return list(chain.from_iterable(place.choices for place in places))


def shares(
    order: Sequence[str], units: Sequence[Unit], places: Sequence[Place]
) -> dict[str, list[Place]]:
    """Unit -> its places, each with the first unit that has one of its quantizers; units without
    any are left out."""
    by_name = {unit.name: unit for unit in units}
    left, found = list(places), dict[str, list[Place]]()
    for name in order:
        mine = [
            place for place in left if not place.quantizers.isdisjoint(by_name[name].quantizers)
        ]
        left = [place for place in left if place not in mine]
        found |= {name: mine} if mine else {}
    return found


def closer_choices(study: Study, places: Sequence[Place], signal: Signal) -> dict[Place, Ranges]:
    """For each place the choice with which the outputs move least when nothing else is quantized;
    places where that is not credibly less than with their own range are left out."""
    every = study.float_variant.disabled
    variants = [
        Variant("range", every - place.quantizers, frozenset(choice))
        for place in places
        for choice in ((), *place.choices)
    ]
    moved = iter(study.measurer.distortion(signal, variants, study.float_variant, SIGNAL_SAMPLES))
    found = {}
    for place in places:
        own, *others = (next(moved) for _ in range(1 + len(place.choices)))
        best = _least_moved(others)
        if is_above(own, others[best], ALPHA / len(others)):
            found[place] = place.choices[best]
    return found


@dataclass(frozen=True)
class Change:
    """Other ranges for a unit. places: those whose ranges `choice` changes."""

    unit: str
    places: Sequence[Place]
    choice: Ranges


class _Trials:
    """Choices tried on all of `rank`: all at once, or one after the other, each on top of those
    taken before it.

    They are told apart as `measure.soft.Comparer` does; the gains that they are recorded with are
    of the metric.
    """

    def __init__(self, study: Study, skip: Sequence[str]) -> None:
        self._aggregate = study.measurer.task.aggregate
        self._compare = Comparer(study)
        self._base = study.skip_variant(skip)
        self._tried: list[Recalibrated] = []
        self._taken: list[Recalibrated] = []

    def all_of(self, changes: Sequence[Change]) -> tuple[Recalibrated, ...]:
        """All of these changes, each with the gain of all; none where the metric does not credibly
        rise. A pass over `rank` for each unit is then saved."""
        if len(changes) < 2:
            return ()
        every = sum((change.choice for change in changes), Ranges())
        now, then = self._trials([(), every], "all at once")
        if not _credibly_rises(self._rise(now, then)):
            return ()
        return tuple(
            replace(self._recalibrated(change, now, then), together=True) for change in changes
        )

    def add(self, change: Change) -> None:
        """Take a choice that is known to move the outputs less, unless the metric falls."""
        taken = self._ranges(self._taken)
        now, then = self._trials([taken, (*taken, *change.choice)], change.unit)
        found = self._recalibrated(change, now, then)
        self._tried.append(found)
        if self._rise(now, then).value >= 0:
            self._taken.append(found)

    def best_of(self, unit: str, places: Sequence[Place], choices: Sequence[Ranges]) -> None:
        """Take the choice with the best metric, where that is credibly above the present one; where
        nothing can be said of chance (one value for the whole split), above it."""
        before = self._ranges(self._taken)
        now, *others = self._trials([before, *((*before, *choice) for choice in choices)], unit)
        rises = [self._rise(now, other) for other in others]
        best = max(range(len(others)), key=lambda index: rises[index].value)
        values = [per_sample(one.values, self._aggregate) for one in (others[best], now)]
        by_chance = not rises[best].has_interval and rises[best].value > 0
        if by_chance or is_above(values[0], values[1], ALPHA / len(choices)):
            change = Change(unit, places, choices[best])
            self._taken.append(self._recalibrated(change, now, others[best]))

    def worth(self) -> tuple[Recalibrated, ...]:
        """What was taken; or all that was tried, where the metric is no lower with all of it
        together: many small improvements show where none does alone. Each then has the gain of all,
        and says so."""
        if len(self._tried) > len(self._taken):
            own, taken, every = self._trials(
                [(), self._ranges(self._taken), self._ranges(self._tried)], "all"
            )
            if self._rise(taken, every).value >= 0:
                together = gain(own.scores, every.scores, self._aggregate)
                return tuple(replace(one, gain=together, together=True) for one in self._tried)
        return tuple(self._taken)

    def _trials(self, ranges: Sequence[Ranges], what: str) -> list[Compared]:
        variants = [Variant("recalibrated", self._base.disabled, frozenset(one)) for one in ranges]
        return self._compare(variants, "rank", f"recalibrate: {what}")

    def _rise(self, now: Compared, then: Compared) -> Estimate:
        return gain(now.values, then.values, self._aggregate)

    def _recalibrated(self, change: Change, now: Compared, then: Compared) -> Recalibrated:
        changed = {one.quantizer for one in change.choice}
        before = _own_of(change.places, changed)
        brought = gain(now.scores, then.scores, self._aggregate)
        return recalibrated_unit(change.unit, before, change.choice, brought)

    @staticmethod
    def _ranges(units: Iterable[Recalibrated]) -> Ranges:
        return tuple(chain.from_iterable(unit.ranges for unit in units))


def _credibly_rises(gain: Estimate) -> bool:
    return gain.ends[0] > 0


def is_above(one: Scores, other: Scores, alpha: float) -> bool:
    """Whether the mean of `one` is above that of `other`, beyond chance."""
    return _credibly_rises(paired_effect(other, one, alpha=alpha))
