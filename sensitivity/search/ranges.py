"""Searches for better ranges, with which a unit can stay in INT8 at no cost in speed.

1. For each quantizer alone, the candidate range that moves the outputs least is found on a few
   samples, in two rounds. Nothing else is quantized then, so that no other unit hides its effect.
2. Whether to take the new ranges is decided on all of `rank`: all at once if that credibly helps,
   otherwise unit by unit, the worst first, on top of those taken before.

`confirm` and `holdout` are not touched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice
from operator import attrgetter

import numpy as np

from sensitivity.measure.measurer import Measurer
from sensitivity.measure.ranking import gain, per_sample
from sensitivity.measure.scan import has_collapsed
from sensitivity.measure.soft import Compared, Comparer
from sensitivity.measure.study import Study
from sensitivity.records import Estimate, Range, Recalibrated, Scores, Unit, Variant, names_of
from sensitivity.signals.base import Signal
from sensitivity.stats.paired import paired_effect

WORST_UNITS = 32
"""Number of units that get other ranges, from the top of the ranking."""

COSTLY_UNITS = 8
"""The same if samples are so large that few of them are affordable (`raced.EXACT_VALUES`)."""

FIRST_SAMPLES = 4
"""Number of samples on which all choices of a place are compared. Few are enough, because most
choices are far from the nearest one."""

FINALISTS = 2
"""Number of choices of a place that are then compared with its own range: the nearest ones."""

LOOKS = (8, 16, 32)
"""Numbers of samples on which a place is decided, or dropped if its own range is as near. Each has
the same share of the chance of a wrong answer. 7 of 28 places of MobileNetV1 and 11 of 25 of
YOLOv8n at 320 pixels need more than 8. The ranges taken remove 99 and 98 % of the distortion that
the best ones remove."""

SIGNAL_SAMPLES = max(LOOKS)

LEAST_DISTANCE = 0.001
"""Distance from which on outputs count as equally near, as a fraction of the mean distance."""

TOGETHER_SAMPLES = 16
"""Number of samples for methods that are tried on all of a model at once. Few are enough, because
such methods differ by much."""

NOISE_SAMPLES = 16
"""Number of samples on which is seen whether outputs are noise."""

ALPHA = 0.05

Ranges = tuple[Range, ...]


@dataclass(frozen=True)
class Place:
    """One or more quantizers that share a range, and the ranges that they could have.

    own: their original ranges.
    choices: for each method, one range for each of the quantizers.
    """

    own: tuple[Range, ...]
    choices: tuple[Ranges, ...]

    @property
    def quantizers(self) -> frozenset[str]:
        """The names of the quantizers that share the range."""
        return frozenset(map(attrgetter("quantizer"), self.own))


def places_of(
    quantizers: Iterable[str],
    own: Mapping[str, Range],
    other: Iterable[Range],
    scales: Iterable[Sequence[str]],
) -> tuple[Place, ...]:
    """Return the places of these quantizers that have any other range.

    own: original range of every quantizer in the places.
    other: ranges of single quantizers, from all methods.
    scales: groups that share one range. A method's range for a group is the widest that it finds
        for a member.
    """
    group_of = dict[str, tuple[str, ...]]()
    for group in map(tuple, scales):
        group_of |= dict.fromkeys(group, group)
    by_method = defaultdict[str, dict[str, Range]](dict)
    for tried in other:
        by_method[tried.method][tried.quantizer] = tried
    groups = dict.fromkeys(group_of.get(name, (name,)) for name in quantizers)
    places = []
    for group in groups:
        shared = [_shared(group, ranges) for ranges in by_method.values()]
        choices = tuple(filter(None, shared))
        if choices:
            places.append(Place(tuple(map(own.__getitem__, group)), choices))
    return tuple(places)


def _shared(group: tuple[str, ...], ranges: Mapping[str, Range]) -> Ranges:
    """Return the widest of the members' ranges, for each member; empty if no member has one.

    group: quantizers that share a range.
    ranges: ranges of one method, by quantizer.
    """
    members = tuple(filter(None, map(ranges.get, group)))
    stands_alone = len(group) == 1
    if stands_alone or not members:
        return members
    largest = max(tried.amax[0] for tried in members)
    lows = set(map(attrgetter("low"), members)) - {None}
    widest = Range(group[0], members[0].method, (largest,), low=min(lows, default=None))
    return tuple(replace(widest, quantizer=name) for name in group)


def recalibrate_together(
    study: Study, places: Sequence[Place], *, skip: Sequence[str] = (), signal: Signal
) -> tuple[Recalibrated, ...]:
    """Return the ranges of one method for all weights, then for all activations, if they help a
    model that has collapsed.

    A single unit shows nothing in such a model. Weights are judged with nothing else quantized, and
    so are activations. The method whose outputs are nearest to float's is taken, if they are
    credibly nearer than with the original ranges. The metric on `rank` must credibly rise. If it
    does not, something else ruins the model, and the effect of the ranges on the rest is unknown: a
    percentile may cut off the few confidences of a detector that matter.

    skip: units that stay unquantized.
    signal: measures how far outputs have moved.
    """
    measurer = study.measurer
    left_out = study.skip_variant(skip).disabled
    taken = _nearest_by_kind(study, places, left_out, signal)
    if not taken:
        return ()
    tries = list(accumulate(taken, initial=Ranges()))
    measurer.use_candidates(tries[-1])
    variants = [Variant("recalibrated", left_out, frozenset(ranges)) for ranges in tries]
    if are_noise(study, variants[1:]):
        return ()
    scores = measurer.scores(variants, "rank", "recalibrate: together")
    values = list(map(measurer.aggregate, scores))
    best = max(range(len(tries)), key=lambda at: (values[at], at))
    improvement = gain(scores[0], scores[best], measurer.task.aggregate)
    if not _credibly_rises(improvement):
        return ()
    return _of_units(study.units, places, tries[best], improvement)


def are_noise(study: Study, variants: Sequence[Variant]) -> bool:
    """Return whether a model that has collapsed has done so in all of these variants too, on about
    the first samples of `rank`."""
    measurer = study.measurer
    of_float, quantized = study.float_variant, study.baselines["quantized"]
    if not _collapsed(measurer, *(measurer.known(each, "rank") for each in (of_float, quantized))):
        return False
    parts = list[list[Scores]]()
    for scores in measurer.stream([of_float, *variants], "rank", "repair: is it noise"):
        parts.append(scores)
        if sum(len(each[0]) for each in parts) >= NOISE_SAMPLES:
            break
    expected, *others = (np.concatenate(each) for each in zip(*parts, strict=True))
    return all(_collapsed(measurer, expected, each) for each in others)


def _collapsed(measurer: Measurer, expected: Scores, found: Scores) -> bool:
    """Return whether scores of a variant are those of noise.

    expected: scores of float.
    """
    return has_collapsed(measurer.aggregate(expected), measurer.aggregate(found))


def _nearest_by_kind(
    study: Study, places: Sequence[Place], left_out: frozenset[str], signal: Signal
) -> list[Ranges]:
    """Return the best ranges of one method for all weights, and those for all activations, if they
    are credibly nearer than the original ranges."""
    every = study.float_variant.disabled
    weights = {quantizer.name for quantizer in study.quantizers if quantizer.role == "weight"}
    taken = []
    for kind in (weights, every - weights):
        of_kind = [place for place in places if place.quantizers <= kind]
        base = Variant("together", left_out | (every - kind))
        taken.append(_nearest(study, base, _by_method(of_kind), signal))
    return list(filter(None, taken))


def _by_method(places: Iterable[Place]) -> dict[str, Ranges]:
    """Return the ranges of each method for all of these places that have any."""
    ranges = defaultdict[str, Ranges](tuple)
    for choice in _choices_of(places):
        ranges[choice[0].method] += choice
    return dict(ranges)


def _nearest(study: Study, base: Variant, choices: Mapping[str, Ranges], signal: Signal) -> Ranges:
    """Return the choice whose outputs are nearest to float's; empty if none is credibly nearer than
    the original ranges."""
    if not choices:
        return ()
    tried = list(choices.values())
    study.measurer.use_candidates(chain.from_iterable(tried))
    variants = [replace(base, ranges=frozenset(choice)) for choice in ((), *tried)]
    own, *others = study.measurer.distortion(
        signal, variants, study.float_variant, TOGETHER_SAMPLES
    )
    best = _least_moved(others)
    if is_nearer(own, others[best], ALPHA / len(tried)):
        return tried[best]
    return ()


def _least_moved(distances: Sequence[Scores]) -> int:
    """Return the position of the variant whose outputs are the nearest to float's.

    distances: distances of the outputs of each variant.
    """
    means = list(map(np.mean, distances))
    return means.index(min(means))


def _of_units(
    units: Sequence[Unit], places: Sequence[Place], choice: Ranges, improvement: Estimate
) -> tuple[Recalibrated, ...]:
    """Return the record of each unit with its new ranges; a range belongs to the first unit that
    has a quantizer of its place."""
    new = {tried.quantizer: tried for tried in choice}
    names = names_of(units)
    recalibrated = []
    for name, of_unit in places_by_unit(names, units, places).items():
        before = _original_ranges(of_unit, new)
        if not before:
            continue
        ranges = tuple(new[own.quantizer] for own in before)
        recalibrated.append(recalibrated_unit(name, before, ranges, improvement, together=True))
    return tuple(recalibrated)


def _original_ranges(places: Iterable[Place], quantizers: Collection[str]) -> Ranges:
    """Return the original ranges of these quantizers, in the order of their places."""
    own = chain.from_iterable(map(attrgetter("own"), places))
    return tuple(own_range for own_range in own if own_range.quantizer in quantizers)


def recalibrated_unit(
    unit: str, before: Ranges, ranges: Ranges, improvement: Estimate, *, together: bool = False
) -> Recalibrated:
    """Return the record of a unit with these ranges, with the name of each of their methods
    once."""
    methods = chain.from_iterable(changed.method.split(", ") for changed in ranges)
    method = ", ".join(dict.fromkeys(methods))
    return Recalibrated(unit, method, before, ranges, improvement, together=together)


def recalibrate(
    study: Study,
    order: Sequence[str],
    places: Sequence[Place],
    *,
    skip: Sequence[str] = (),
    signal: Signal | None = None,
) -> tuple[Recalibrated, ...]:
    """Return the units whose other ranges are worth taking, in the order taken.

    order: names of the units to try, worst first.
    skip: units left unquantized throughout.
    signal: measures how far outputs have moved; None if there are no outputs, and the metric alone
        then chooses.
    """
    if not places:
        return ()  # no quantizer of the model has a range that can be changed
    study.measurer.use_candidates(chain.from_iterable(_choices_of(places)))
    trials, by_unit = _Trials(study, skip), places_by_unit(order, study.units, places)
    if signal is None:
        for name, of_unit in by_unit.items():
            trials.best_of(name, of_unit, _choices_of(of_unit))
        return trials.result()
    closer = closer_choices(study, places, signal)
    changes = []
    for name, of_unit in by_unit.items():
        changed = [place for place in of_unit if place in closer]
        if changed:
            choice = sum(map(closer.__getitem__, changed), Ranges())
            changes.append(Change(name, changed, choice))
    at_once = trials.all_of(changes)
    if at_once:
        return at_once
    for change in changes:
        trials.add(change)
    return trials.result()


def _choices_of(places: Iterable[Place]) -> list[Ranges]:
    """Return every choice of each place."""
    return list(chain.from_iterable(map(attrgetter("choices"), places)))


def places_by_unit(
    order: Sequence[str], units: Sequence[Unit], places: Sequence[Place]
) -> dict[str, list[Place]]:
    """Return the places of each unit, by name; units without any are left out.

    A place belongs to the first unit that has one of its quantizers.
    """
    by_name = {unit.name: unit for unit in units}
    left = list(places)
    by_unit = dict[str, list[Place]]()
    for name in order:
        quantizers = by_name[name].quantizers
        of_unit = [place for place in left if not place.quantizers.isdisjoint(quantizers)]
        left = [place for place in left if place not in of_unit]
        if of_unit:
            by_unit[name] = of_unit
    return by_unit


def closer_choices(study: Study, places: Sequence[Place], signal: Signal) -> dict[Place, Ranges]:
    """Return, for each place, the choice with which the outputs move least when nothing else is
    quantized.

    All choices are compared on a few samples, and the nearest of them on more, until it is clear
    whether they are better. Places are left out if no choice is credibly better than their original
    range.
    """
    every = {place: place.choices for place in places}
    still_open = dict[Place, tuple[Ranges, ...]]()
    for place, (_, *others) in _distances(study, every, signal, FIRST_SAMPLES).items():
        nearest = np.argsort(list(map(np.mean, others)), kind="stable")[:FINALISTS]
        still_open[place] = tuple(place.choices[at] for at in nearest)
    closer = dict[Place, Ranges]()
    for samples in LOOKS:
        compared = _distances(study, still_open, signal, samples)
        for place, (own, *others) in compared.items():
            best = _least_moved(others)
            if is_nearer(own, others[best], ALPHA / len(LOOKS) / len(place.choices)):
                closer[place] = still_open.pop(place)[best]
            elif np.mean(others[best]) >= np.mean(own):
                del still_open[place]
    return closer


def _distances(
    study: Study, choices: Mapping[Place, Sequence[Ranges]], signal: Signal, samples: int
) -> dict[Place, list[Scores]]:
    """Return, for each place, the distances of the outputs with its original range and with each of
    these choices, when nothing else is quantized.

    samples: number of samples, `SIGNAL_SAMPLES` at most. Those of an earlier call are not measured
        again.
    """
    if not choices:
        return {}
    every = study.float_variant.disabled
    variants = list[Variant]()
    for place, ranges in choices.items():
        tried = map(frozenset[Range], ((), *ranges))
        variants += [Variant("range", every - place.quantizers, each) for each in tried]
    measured = study.measurer.distortion(
        signal, variants, study.float_variant, SIGNAL_SAMPLES, until=samples
    )
    moved = iter(measured)
    return {place: list(islice(moved, 1 + len(ranges))) for place, ranges in choices.items()}


@dataclass(frozen=True)
class Change:
    """Other ranges for a unit.

    unit: name of the unit.
    places: places whose ranges `choice` changes.
    choice: the new ranges.
    """

    unit: str
    places: Sequence[Place]
    choice: Ranges


class _Trials:
    """Choices tried on all of `rank`: all at once, or one after the other, each on top of those
    taken before it.

    Choices are compared as `measure.soft.Comparer` does; the recorded gains are gains of the
    metric.
    """

    def __init__(self, study: Study, skip: Sequence[str]) -> None:
        self._aggregate = study.measurer.task.aggregate
        self._compare = Comparer(study)
        self._base = study.skip_variant(skip)
        self._tried: list[Recalibrated] = []
        self._taken: list[Recalibrated] = []

    def all_of(self, changes: Sequence[Change]) -> tuple[Recalibrated, ...]:
        """Return all of these changes, each with the gain of all; none if the metric does not
        credibly rise.

        This saves a pass over `rank` for each unit.
        """
        if len(changes) < 2:
            return ()
        every = tuple(chain.from_iterable(map(attrgetter("choice"), changes)))
        before, after = self._trials([(), every], "all at once")
        if not _credibly_rises(self._rise(before, after)):
            return ()
        recalibrated = [self._recalibrated(change, before, after) for change in changes]
        return tuple(replace(unit, together=True) for unit in recalibrated)

    def add(self, change: Change) -> None:
        """Take a choice that is known to move the outputs less, unless the metric falls."""
        taken = self._ranges(self._taken)
        before, after = self._trials([taken, (*taken, *change.choice)], change.unit)
        recalibrated = self._recalibrated(change, before, after)
        self._tried.append(recalibrated)
        if self._rise(before, after).value >= 0:
            self._taken.append(recalibrated)

    def best_of(self, unit: str, places: Sequence[Place], choices: Sequence[Ranges]) -> None:
        """Take the choice with the best metric, if it is credibly above the present one.

        With one value for the whole split there is no interval, and any rise counts.
        """
        taken = self._ranges(self._taken)
        before, *others = self._trials([taken, *((*taken, *choice) for choice in choices)], unit)
        rises = [self._rise(before, other) for other in others]
        best = max(range(len(others)), key=lambda index: rises[index].value)
        if rises[best].has_interval:
            new = per_sample(others[best].values, self._compare.aggregate)
            old = per_sample(before.values, self._compare.aggregate)
            is_better = is_above(new, old, ALPHA / len(choices))
        else:
            is_better = rises[best].value > 0
        if is_better:
            change = Change(unit, places, choices[best])
            self._taken.append(self._recalibrated(change, before, others[best]))

    def result(self) -> tuple[Recalibrated, ...]:
        """Return the changes taken, or all that were tried if the metric is no lower with all of
        them together.

        Many small improvements show together where none does alone. Each of them is then recorded
        with the gain of all.
        """
        taken = tuple(self._taken)
        if len(self._tried) == len(taken):
            return taken
        tries = [(), self._ranges(taken), self._ranges(self._tried)]
        original, with_taken, with_all = self._trials(tries, "all")
        if self._rise(with_taken, with_all).value < 0:
            return taken
        together = gain(original.scores, with_all.scores, self._aggregate)
        return tuple(replace(unit, gain=together, together=True) for unit in self._tried)

    def _trials(self, ranges: Sequence[Ranges], what: str) -> list[Compared]:
        """Return the measured values on `rank` of the base variant with each of these ranges."""
        disabled = self._base.disabled
        variants = [Variant("recalibrated", disabled, frozenset(tried)) for tried in ranges]
        return self._compare(variants, "rank", f"recalibrate: {what}")

    def _rise(self, before: Compared, after: Compared) -> Estimate:
        return gain(before.values, after.values, self._compare.aggregate)

    def _recalibrated(self, change: Change, before: Compared, after: Compared) -> Recalibrated:
        changed = set(map(attrgetter("quantizer"), change.choice))
        replaced = _original_ranges(change.places, changed)
        improvement = gain(before.scores, after.scores, self._aggregate)
        return recalibrated_unit(change.unit, replaced, change.choice, improvement)

    @staticmethod
    def _ranges(units: Iterable[Recalibrated]) -> Ranges:
        return tuple(chain.from_iterable(map(attrgetter("ranges"), units)))


def _credibly_rises(gain: Estimate) -> bool:
    return gain.ends[0] > 0


def is_nearer(before: Scores, after: Scores, alpha: float) -> bool:
    """Return whether outputs are nearer to float's than before, beyond chance: on the mean over
    samples, and by the ratio of the distances of a sample.

    Distances of samples differ by orders of magnitude, and their ratios do not, so that few samples
    tell.

    before, after: distances of the same samples, >= 0.
    """
    if np.mean(after) >= np.mean(before):
        return False
    least = LEAST_DISTANCE * np.mean(before)
    return is_above(np.log(before + least), np.log(after + least), alpha)


def is_above(one: Scores, other: Scores, alpha: float) -> bool:
    """Return whether the mean of `one` is above that of `other`, beyond chance."""
    return _credibly_rises(paired_effect(other, one, alpha=alpha))
