"""The accuracy path of a plan as plain numbers in the unit shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sensitivity.records import Plan
from sensitivity.reporting.axes import Axis, axis_around
from sensitivity.reporting.formats import MetricFormat, listing


@dataclass(frozen=True)
class PathPoint:
    """A skip-set that was tried.

    slot: its position among the counts.
    tries: numbers of the tries of this set, from 1.
    """

    slot: int
    value: float
    met: bool
    chosen: bool
    tries: tuple[int, ...]


@dataclass(frozen=True)
class Reference:
    """A level that is drawn across the chart.

    value: in the unit that the chart shows.
    text: label beside the line.
    """

    name: Literal["float", "target"]
    value: float
    text: str


@dataclass(frozen=True)
class PathChart:
    """Accuracy on `confirm` against the number of layers that are left out or in another format.

    counts: every number of layers tried, ascending, one slot each. The horizontal axis is an order,
        not a scale.
    chosen_interval: interval of the chosen plan; None without one.
    """

    axis: Axis
    counts: tuple[int, ...]
    points: tuple[PathPoint, ...]
    references: tuple[Reference, ...]
    chosen_interval: tuple[float, float] | None
    unit: str

    def across(self, slot: int) -> float:
        """Return the position of a slot: 0 at the left end, 1 at the right end."""
        return (slot + 0.5) / len(self.counts)

    @property
    def best(self) -> tuple[PathPoint, ...]:
        """The point with the highest accuracy of each number of layers, from few layers to many."""
        tops = {}
        for point in sorted(self.points, key=lambda point: point.value):
            tops[point.slot] = point
        return tuple(tops[slot] for slot in sorted(tops))


def path_chart(plan: Plan, full_scale: float) -> PathChart:
    """Return every skip-set tried on `confirm`.

    All of INT8, at zero layers, and the chosen plan are included even if they were not tried.
    """
    metric = MetricFormat(plan.metric.name, full_scale)
    tried = _tried(plan)
    counts = tuple(sorted(set(map(len, tried))))
    points = []
    for skip, (value, met, tries) in tried.items():
        slot = counts.index(len(skip))
        points.append(PathPoint(slot, metric.shown(value), met, plan.is_of(skip), tries))
    float_, floor = plan.metric.float.value, plan.floor
    references = (
        Reference("float", metric.shown(float_), f"float {metric.level(float_)}"),
        Reference("target", metric.shown(floor), f"target {metric.level(floor)}"),
    )
    low, high = metric.shown_interval(plan.metric.confirm)
    interval = None if low is None or high is None else (low, high)
    values = [*(point.value for point in points), *(line.value for line in references)]
    values += interval or ()
    axis = axis_around(values, zero=False, ticks=7)
    unit = f"{metric.level_label} on confirm"
    return PathChart(axis, counts, tuple(points), references, interval, unit)


def changes(plan: Plan) -> tuple[str, ...]:
    """Return for each try what it left out and put back compared with the one before, in words."""
    sentences, before = [], frozenset[str]()
    for step in plan.path:
        now = frozenset(step.names)
        out = tuple(name for name in step.names if name not in before)
        back = tuple(sorted(before - now))
        words = []
        if out:
            words.append(f"out: {listing(out, most=3)}")
        if back:
            words.append(f"back: {listing(back, most=3)}")
        sentences.append("; ".join(words))
        before = now
    return tuple(sentences)


def _tried(plan: Plan) -> dict[frozenset[str], tuple[float, bool, tuple[int, ...]]]:
    """Return skip-set -> its metric, whether it met the target, and the numbers of its tries."""
    start, end = plan.metric.quantized.value, plan.metric.confirm.value
    tried: dict[frozenset[str], tuple[float, bool, tuple[int, ...]]] = {
        frozenset(): (start, start >= plan.floor, ())
    }
    for number, step in enumerate(plan.path, start=1):
        before = tried.get(frozenset(step.names), (0.0, False, ()))[2]
        tried[frozenset(step.names)] = (step.metric, step.met, (*before, number))
    tried.setdefault(frozenset(plan.names), (end, plan.met, ()))
    return tried
