"""Learns the rounding of weights for the formats of a plan, so that fewer units need others.

A rounding compensates for the errors of the layers before it. One that was learned with everything
in INT8 does so for errors that a plan takes away, too. So roundings are learned again with the
formats of the plan that a first search found, for less and less of it, by bisection. The next
search starts from those of the smallest part that meets the target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from sensitivity.measure.study import Study
from sensitivity.planners.base import Skip
from sensitivity.planners.formats import Chains, set_of_steps
from sensitivity.records import (
    Plan,
    Target,
    fp8_name,
    parts_of_set,
    unit_of,
    wide_name,
)
from sensitivity.repairs.rounding import learned_roundings, takes_rounding
from sensitivity.session import Session
from sensitivity.steps.recalibrate import Recalibration, fitted, meets, with_repairs

Found = TypeVar("Found")


def refitted(
    session: Session, study: Study, found: Recalibration, plan: Plan, fixed: Skip
) -> Recalibration | None:
    """Return the ranges with roundings for the smallest part of the plan that meets its target with
    them; None if no part is smaller than the plan, or if no rounding can be learned.

    study: whose units may have other formats.
    found: ranges that the plan was searched for with.
    fixed: units that every plan leaves out.
    """
    can_learn = takes_rounding(session.source) and session.has_samples
    if not (plan.met and study.formats and found.units and can_learn):
        return None
    chains = _chains(plan, study)
    steps = _steps(plan, chains, fixed)

    def tried(number: int) -> Recalibration | None:
        names = (*fixed, *set_of_steps(steps[:number], chains))
        ranges = _for_set(session, study, found, names)
        if ranges is None or not _is_met(session, study, ranges, plan.target, names):
            return None
        return ranges

    # With everything in INT8, roundings do not meet the target: `steps.recalibrate` tried them.
    return _of_fewest(len(steps), tried)


def _of_fewest(number: int, tried: Callable[[int], Found | None]) -> Found | None:
    """Return what `tried` finds for the smallest number of steps between none and all, by
    bisection.

    number: of all steps.
    tried: number of steps -> what they give, or None if they are too few.
    """
    too_few, enough = 0, number
    best = None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        found = tried(middle)
        if found is None:
            too_few = middle
        else:
            enough, best = middle, found
    return best


def _chains(plan: Plan, study: Study) -> Chains:
    """Return the units outside INT8 in a plan -> a format between INT8 and what they have: for a
    unit in float the most precise one that it may have, and for any other its own."""
    chains = {unit_of(name): (name,) for name in plan.names if name in study.formats}
    for unit in plan.skip:
        names = [name for name in (wide_name(unit), fp8_name(unit)) if name in study.formats]
        if names:
            chains[unit] = (names[0],)
    return chains


def _steps(plan: Plan, chains: Chains, fixed: Skip) -> list[str]:
    """Return the steps of a plan, see `planners.formats`: first those that give a unit its first
    format, in the plan's order, then those from there to float."""
    skip = [unit for unit in plan.skip if unit not in fixed]
    first = [chains.get(unit, (unit,))[0] for unit in (*skip, *plan.wide, *plan.fp8)]
    return [*first, *(unit for unit in skip if unit in chains)]


def _for_set(
    session: Session, study: Study, found: Recalibration, names: Skip
) -> Recalibration | None:
    """Return the ranges with a rounding and a bias for each layer, learned with this set; None if
    they do not help there.

    names: a set in the notation of planners.
    """
    source: Any = session.source
    variant = study.skip_variant(names)
    in_force = {kept.quantizer: kept for kept in (*found.ranges, *variant.ranges)}
    learn = partial(learned_roundings, source, ranges=in_force.values(), left_out=variant.disabled)
    units = with_repairs(
        session, found.units, fitted(session, "learn rounding", learn), names, study
    )
    if units == found.units:
        return None
    basis = hashlib.sha256(repr((found.basis, sorted(names))).encode()).hexdigest()[:16]
    return replace(found, basis=basis, units=units, fitted_wide=parts_of_set(names).wide)


def _is_met(
    session: Session, study: Study, ranges: Recalibration, target: Target, names: Sequence[str]
) -> bool:
    """Return whether a set meets the target with these ranges."""
    session.measurer.use_candidates(ranges.ranges)
    with session.measurer.with_ranges(ranges.ranges):
        return meets(study, ranges.scan, target, names)
