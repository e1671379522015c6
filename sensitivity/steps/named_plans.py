"""Named plans of a run: their names, and protection against replacing one with another."""

from __future__ import annotations

from itertools import chain, count

from sensitivity.errors import NamesError
from sensitivity.records import Plan, Target
from sensitivity.reporting.formats import MetricFormat
from sensitivity.run_dir import RunDir

KEPT = "The plan that was here before, for {}, is kept as {}."
"""Arguments: target, file."""


def keep_earlier(run_dir: RunDir, plan: Plan) -> tuple[str, ...]:
    """Store the plan that `plan` is about to replace under a name of its own, and return a note
    about it.

    Nothing is stored if both are the same plan: for the same target, from the same planner and with
    the same units left out.
    """
    earlier = run_dir.read_if_there("plan.json", Plan)
    if earlier is None or _same(earlier, plan):
        return ()
    info = run_dir.info()
    place = _place_for(run_dir, earlier, plan_name(earlier.target, info.full_scale))
    place.write("plan.json", earlier)
    words = MetricFormat(info.metric, info.full_scale).target(earlier.target)
    return (KEPT.format(words, place.file("plan.json").relative_to(run_dir.path)),)


def _place_for(run_dir: RunDir, plan: Plan, name: str) -> RunDir:
    """Return the first of NAME, NAME-2, NAME-3 and so on that is free or holds this plan
    already."""
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    places = (RunDir(run_dir.path, candidate) for candidate in names)

    def fits(place: RunDir) -> bool:
        held = place.read_if_there("plan.json", Plan)
        return held is None or _same(held, plan)

    return next(filter(fits, places))


def plan_name(target: Target, full_scale: float) -> str:
    """Return the name for a plan without one that is about to be replaced.

    >>> plan_name(Target(drop=0.01), full_scale=1.0), plan_name(Target(relative=0.02), 1.0)
    ('max-drop-1pt-at-0.8', 'max-drop-2percent-at-0.8')
    """
    if target.metric is not None:
        asked = f"target-{target.metric:g}"
    elif target.drop is not None:
        asked = f"max-drop-{100 * target.drop / full_scale:g}pt"
    else:
        assert target.relative is not None
        asked = f"max-drop-{100 * target.relative:g}percent"
    return f"{asked}-at-{target.confidence:g}"


def check_name(run_dir: RunDir, target: Target) -> None:
    """Raise NamesError if the plan of this name exists for another target."""
    earlier = run_dir.read_if_there("plan.json", Plan)
    if run_dir.name is None or earlier is None or earlier.target == target:
        return
    info = run_dir.info()
    words = MetricFormat(info.metric, info.full_scale).target(earlier.target)
    raise NamesError(
        f"Expected --name to be new or of a plan for this target, got {run_dir.name!r}, a plan for "
        f"{words} with a confidence of {earlier.target.confidence:g}; choose another name, or "
        f"remove {run_dir.file('plan.json')}."
    )


def _same(one: Plan, other: Plan) -> bool:
    def identity(plan: Plan) -> tuple[object, ...]:
        return plan.target, plan.planner, plan.skip, plan.widened, plan.in_fp8

    return identity(one) == identity(other)
