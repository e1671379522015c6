"""Decides whether a repair of all units at once is worth having, on `rank`, to which it was not
fitted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter

from sensitivity.measure.ranking import Aggregate, gain, per_sample
from sensitivity.measure.soft import Comparer
from sensitivity.measure.study import Study
from sensitivity.records import Estimate, Range, Recalibrated, Scores, Unit, Variant
from sensitivity.search.ranges import (
    ALPHA,
    LOOKS,
    are_noise,
    is_above,
    is_nearer,
    recalibrated_unit,
)
from sensitivity.signals.base import Signal
from sensitivity.tasks.base import mean

REPAIR_LOOKS = (*LOOKS, 64)
"""Numbers of samples on which outputs are compared with float's, until it is clear whether they are
nearer."""

Pair = tuple[Range, Range]
"""The original range of a quantizer, and its new one."""


def repaired(
    study: Study,
    known: Sequence[Recalibrated],
    repairs: Iterable[Pair],
    *,
    skip: Sequence[str] = (),
    signal: Signal | None = None,
) -> tuple[Recalibrated, ...]:
    """Return the units with these repairs on top of their known ranges, or unchanged if the repairs
    do not help.

    Repairs help if the metric on `rank` does not fall, and either it credibly rises or the outputs
    are credibly nearer to float's. A metric that is no mean over samples must not credibly fall. If
    the task has a soft drop, it takes the place of the metric. Repairs do not help a model that has
    collapsed if its outputs are noise with them too, however near to float's.
    Each unit is recorded with the gain of all repairs, over the original ranges.

    known: units that were recalibrated before.
    repairs: the repaired ranges.
    skip: units that stay unquantized, and such that have 16 bits, in the notation of planners.
    signal: measures how far outputs have moved; None if there are no outputs to compare.
    """
    before = _by_quantizer(chain.from_iterable(map(attrgetter("pairs"), known)))
    after = before | _by_quantizer(repairs)
    if after == before:
        return tuple(known)
    variants = [_variant(study, skip, pairs) for pairs in ({}, before, after)]
    study.measurer.use_candidates(variants[1].ranges | variants[2].ranges)
    if are_noise(study, variants[2:]):
        return tuple(known)
    compare = Comparer(study)
    original, *both = compare(variants, "rank", "repair: all units")
    values = [compared.values for compared in both]
    if not _is_better(study, values, compare.aggregate, variants[1:], signal):
        return tuple(known)
    improvement = gain(original.scores, both[-1].scores, study.measurer.task.aggregate)
    changed = (_changed(unit, after, improvement) for unit in study.units)
    return tuple(filter(attrgetter("ranges"), changed))


def _by_quantizer(pairs: Iterable[Pair]) -> dict[str, Pair]:
    return {old.quantizer: (old, new) for old, new in pairs}


def _variant(study: Study, skip: Sequence[str], pairs: Mapping[str, Pair]) -> Variant:
    variant = study.skip_variant(skip)
    ranges = {old.quantizer: new for old, new in pairs.values()}
    ranges |= {wide.quantizer: wide for wide in variant.ranges}
    return Variant("repaired", variant.disabled, frozenset(ranges.values()))


def _changed(unit: Unit, pairs: Mapping[str, Pair], improvement: Estimate) -> Recalibrated:
    """Return the unit with the new ranges of its quantizers; without any if none of them
    changed."""
    before, ranges = list[Range](), list[Range]()
    for old, new in filter(None, map(pairs.get, unit.quantizers)):
        before.append(old)
        ranges.append(new)
    return recalibrated_unit(unit.name, tuple(before), tuple(ranges), improvement, together=True)


def _is_better(
    study: Study,
    values: Sequence[Scores],
    aggregate: Aggregate,
    variants: Sequence[Variant],
    signal: Signal | None,
) -> bool:
    """Return whether the second of two variants is better than the first, as `repaired` defines
    it."""
    change = gain(values[0], values[1], aggregate)
    if not change.has_interval:  # one value for the whole split, so chance cannot be estimated
        return change.value > 0
    # Of another metric, such as mAP, the least change on a few images is chance.
    falls = change.value < 0 if aggregate is mean else change.ends[1] < 0
    if falls:
        return False
    first, second = (per_sample(scores, aggregate) for scores in values)
    return is_above(second, first, ALPHA) or _is_nearer(study, variants, signal)


def _is_nearer(study: Study, variants: Sequence[Variant], signal: Signal | None) -> bool:
    """Return whether the outputs of the second variant are credibly nearer to float's: by the
    ratios of the distances, or on the last look by the mean, which a repair may lower by a few
    samples alone."""
    if signal is None:
        return False
    alpha = ALPHA / (1 + len(REPAIR_LOOKS))
    for samples in REPAIR_LOOKS:
        before, after = study.measurer.distortion(
            signal, variants, study.float_variant, max(REPAIR_LOOKS), until=samples
        )
        if is_nearer(before, after, alpha):
            return True
    return is_above(before, after, alpha)
