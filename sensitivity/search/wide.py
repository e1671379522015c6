"""Activations in 16 bits for units that a plan would leave out in float: their weights stay as they
are.

The units that the plan leaves out are all that is tried, so a plan with 16 bits never has more
units out of their format than the plan without. Every set is judged on `confirm`, as in the search.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sensitivity.errors import ModelError
from sensitivity.measure.ranking import gain
from sensitivity.measure.scan import Scan
from sensitivity.measure.study import Study
from sensitivity.planners.base import Judge
from sensitivity.quantizers.base import Recalibratable
from sensitivity.records import Estimate, Plan, Range, Unit, Variant, Widened
from sensitivity.search.choose import metric_of
from sensitivity.search.frontier import centred_values
from sensitivity.search.judge import judge_of

WIDE_BITS = 16

SINGLE = 24
"""Units that are tried one by one, at most, where all at once miss the target."""

Skip = tuple[str, ...]
Wide = Mapping[str, tuple[Range, ...]]
"""Unit -> the ranges of all its activations in 16 bits."""


def wide_range(own: Range) -> Range:
    """The same range in steps of 16 bits."""
    return replace(own, bits=WIDE_BITS)


def wide_ranges(source: Recalibratable, units: Iterable[Unit]) -> dict[str, tuple[Range, ...]]:
    """What gives these units activations of 16 bits; units without activations on an integer grid
    of 8 bits or less, and with any that are not, are left out."""
    found = {}
    for unit in units:
        ranges = _of_unit(source, unit)
        if ranges:
            found[unit.name] = ranges
    return found


def _of_unit(source: Any, unit: Unit) -> tuple[Range, ...]:
    by_name = {quantizer.name: quantizer for quantizer in source.quantizers}
    own = [by_name[name] for name in unit.quantizers if by_name[name].role != "weight"]
    if any(quantizer.bits >= WIDE_BITS for quantizer in own):
        return ()
    try:
        return tuple(wide_range(source.range(quantizer.name)) for quantizer in own)
    except ModelError:  # FP8, blocks, ranges of each batch: none has a range that could be wider
        return ()


@dataclass(frozen=True)
class WideStudy(Study):
    """A study of one plan: of the units that it leaves out, those that a set does not name have 16
    bits instead.

    outside: the units that the plan leaves out. wide: of those of them that can have 16 bits.
    """

    outside: Skip = ()
    wide: Wide = field(default_factory=dict)

    def widened(self, skip: Collection[str]) -> tuple[Widened, ...]:
        """The units with 16 bits where these stay in float."""
        return tuple(
            Widened(unit, self.wide[unit]) for unit in self.outside if unit not in set(skip)
        )

    def skip_variant(self, skip: Iterable[str]) -> Variant:
        """These units in float, and all others of `outside` in 16 bits."""
        skip = tuple(skip)
        variant = super().skip_variant(skip)
        ranges = (one for unit in self.widened(skip) for one in unit.ranges)
        return replace(variant, ranges=frozenset(ranges))


@dataclass(frozen=True)
class WidePlan:
    """What was found. plan: as it was where no unit can have 16 bits. tried: sets of units left in
    float that were judged, and the values of each on `confirm`, as `frontier.confirm_values` has
    them; only those measured on all of it. drop: float minus the plan there, paired."""

    plan: Plan
    tried: tuple[tuple[Skip, np.ndarray], ...] = ()
    drop: Estimate | None = None


def with_wide_units(study: WideStudy, scanned: Scan, plan: Plan) -> WidePlan:
    """The plan with as few of its units in float as the target allows, the others in 16 bits."""
    if not plan.met or not study.wide:
        return WidePlan(plan)
    measurer, aggregate = study.measurer, study.measurer.task.aggregate
    (float_scores,) = measurer.scores([study.float_variant], "confirm", "plan: float")
    search = _Search(judge_of(study, plan.target, float_scores, scanned))
    search.judge(plan.skip)  # what is known of float's beliefs begins with the plan itself
    skip = search.fewest(plan.skip, study.wide)
    if skip == plan.skip:
        return WidePlan(plan)
    variant = study.skip_variant(skip)
    tried = []
    for one in search.tried:
        scores = measurer.known(study.skip_variant(one), "confirm")
        if len(scores) == len(float_scores):
            tried.append((one, centred_values(scores, aggregate)))
    (confirmed,) = measurer.scores([variant], "confirm", "plan: 16 bits")
    found = replace(
        plan,
        skip=skip,
        quantizers=tuple(name for name in plan.quantizers if name in variant.disabled),
        widened=study.widened(skip),
        metric=metric_of(study, search.judge, float_scores, skip),
        predicted_ms=None,
        measured_ms=None,
    )
    return WidePlan(found, tuple(tried), gain(confirmed, float_scores, aggregate))


class _Search:
    """Judges which units can leave float. tried: the sets in float, in their order."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.tried: list[Skip] = []

    def fewest(self, skip: Skip, wide: Wide) -> Skip:
        """The units of `skip`, most sensitive first, that have to stay in float: all that can are
        tried at once, then one by one, the least sensitive first, each with those taken before."""
        able = [unit for unit in reversed(skip) if unit in wide]
        if self._meets(skip, able):
            return _without(skip, able)
        taken: list[str] = []
        for unit in able[:SINGLE]:
            if self._meets(skip, [*taken, unit]):
                taken.append(unit)
        return _without(skip, taken)

    def _meets(self, skip: Skip, units: Sequence[str]) -> bool:
        """Whether the target is met with these of the units in 16 bits."""
        self.tried.append(_without(skip, units))
        return self.judge(self.tried[-1]).met


def _without(skip: Skip, units: Collection[str]) -> Skip:
    return tuple(name for name in skip if name not in units)
