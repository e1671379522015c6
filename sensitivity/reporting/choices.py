"""The skip-sets that a reader can choose among: accuracy against latency, work or number of
layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Literal

import numpy as np

from sensitivity.records import Estimate, FrontierPoint, Plan, cost_of
from sensitivity.reporting.axes import Axis, axis_around
from sensitivity.reporting.data import Choice, ReportData
from sensitivity.reporting.formats import MetricFormat, count, format_words, joined, milliseconds
from sensitivity.reporting.outcome import parts_words
from sensitivity.reporting.plan_sentences import chance_words
from sensitivity.reporting.verdict import verdict_in

Kind = Literal["float", "int8", "option", "beaten"]
Across = Literal["ms", "work", "layers"]

ACROSS: dict[Across, str] = {
    "ms": "latency, ms (left is faster)",
    "work": "estimated work, of no unit (left is less)",
}


@dataclass(frozen=True)
class Option:
    """A set that some target chooses, in words.

    names: units that it leaves out, and units that it gives another format.
    cost: its latency or work; "" if neither is known.
    holdout: its metric there; "" if it was not measured.
    command: command that makes it the plan; "" if it is the plan or no target chooses it.
    allowed: the smallest allowed drop that chooses it, in the unit shown; None if there is none.
    state: what is known about the target.
    """

    names: tuple[str, ...]
    layers: str
    accuracy: str
    drop: str
    cost: str
    holdout: str
    command: str
    allowed: float | None
    is_plan: bool
    state: str


@dataclass(frozen=True)
class Mark:
    """One point of the picture.

    x: from 0 at the left to 1 at the right.
    y, low, high: in the unit shown; low and high are None without an interval.
    option: index among the options; None for a point that is no option.
    """

    kind: Kind
    x: float
    y: float
    low: float | None
    high: float | None
    title: str
    option: int | None = None


@dataclass(frozen=True)
class ChoiceChart:
    """The picture of all sets.

    ticks: position from 0 to 1 and label, along the horizontal axis.
    float_line, target_line: value in the unit shown, and label, which is drawn at the left if that
        is free.
    plan: index of the option that is the plan; None if none is.
    """

    up: Axis
    up_unit: str
    across_unit: str
    ticks: tuple[tuple[float, str], ...]
    marks: tuple[Mark, ...]
    options: tuple[Option, ...]
    float_line: tuple[float, str]
    target_line: tuple[float, str]
    plan: int | None

    @property
    def is_left_free(self) -> bool:
        """Whether the left third holds no mark."""
        return all(mark.x > 1 / 3 for mark in self.marks)

    @property
    def line(self) -> tuple[Mark, ...]:
        """The marks of the options, from left to right."""
        options = [mark for mark in self.marks if mark.kind == "option"]
        return tuple(sorted(options, key=attrgetter("x", "y")))


@dataclass(frozen=True)
class _Place:
    """A mark before its axis is known.

    across: in the unit of the horizontal axis.
    """

    kind: Kind
    across: float
    level: Estimate
    title: str
    option: int | None = None


def choice_chart(data: ReportData, *, whole: bool = True) -> ChoiceChart | None:
    """Return the sets that the plan's search measured, with float; None if there is no plan.

    whole: whether to include everything in INT8 as calibrated, which may be far below all sets.
    """
    return None if data.plan is None else _Sets(data, data.plan).chart(whole)


@dataclass(frozen=True)
class _Sets:
    """The sets of one run and all that is known about them."""

    data: ReportData
    plan: Plan

    @cached_property
    def metric(self) -> MetricFormat:
        return MetricFormat(self.data.metric, self.data.full_scale)

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        return self.data.choices or (_of_plan(self.plan),)

    @cached_property
    def shown(self) -> tuple[Choice, ...]:
        """The sets that some target chooses, and the plan's."""
        return tuple(
            choice for choice in self.choices if choice.command or self.is_plan(choice.point)
        )

    def is_plan(self, point: FrontierPoint) -> bool:
        """Return whether a set is the plan's."""
        return self.plan.is_of(point.names)

    @cached_property
    def times_ms(self) -> dict[str, float]:
        """Median latency of each variant that was timed."""
        times = dict[str, float]()
        for timing in self.data.timings:
            times |= dict.fromkeys(timing.variants, timing.median_ms)
        return times

    @cached_property
    def across(self) -> Across:
        """Quantity on the horizontal axis: the most meaningful one that is known for all sets."""
        if None not in {self.latency_ms(choice.point) for choice in self.choices}:
            return "ms"
        if None not in {choice.work for choice in self.choices}:
            return "work"
        return "layers"

    @property
    def across_words(self) -> str:
        """The title of the horizontal axis."""
        if self.across != "layers":
            return ACROSS[self.across]
        counted = ["layers left out of INT8"]
        if any(choice.point.wide for choice in self.choices):
            counted.append("one with activations of 16 bits as an eighth")
        if any(choice.point.fp8 for choice in self.choices):
            counted.append("one in FP8 as a sixteenth")
        return f"{', '.join(counted)} (in order, not to scale)"

    def chart(self, whole: bool) -> ChoiceChart:
        """Return the picture of the sets.

        whole: as in `choice_chart`.
        """
        metric, plan = self.metric, self.plan
        places = [*map(self.place, self.choices), *self.float_()]
        if whole:
            places += self.int8()
        float_, floor = plan.metric.float.value, plan.floor
        drawn = [float_, floor]
        for place in places:
            ends = (place.level.low, place.level.high)
            drawn += [place.level.value, *(end for end in ends if end is not None)]
        ticks, positions = self.horizontal([place.across for place in places])
        own = [index for index, choice in enumerate(self.shown) if self.is_plan(choice.point)]
        return ChoiceChart(
            up=axis_around(map(metric.shown, drawn), zero=False),
            up_unit=f"{metric.level_label} on confirm",
            across_unit=self.across_words,
            ticks=ticks,
            marks=tuple(self.mark(place, positions[place.across]) for place in places),
            options=tuple(map(self.option, self.shown)),
            float_line=(metric.shown(float_), f"float {metric.level(float_)}"),
            target_line=(metric.shown(floor), f"target {metric.level(floor)}"),
            plan=next(iter(own), None),
        )

    def latency_ms(self, point: FrontierPoint) -> float | None:
        """Return the measured latency of a set, otherwise the predicted one.

        Returns None without either.
        """
        timed = None
        if self.is_plan(point):
            timed = self.times_ms.get("partial")
        elif not point.names:
            timed = self.times_ms.get("int8")
        for known in (timed, point.measured_ms):
            if known is not None:
                return known
        return point.predicted_ms

    def cost(self, choice: Choice) -> float:
        """Return the position of a set on the horizontal axis, in its unit."""
        known_cost = {"ms": self.latency_ms(choice.point), "work": choice.work}.get(self.across)
        return cost_of(choice.point.names, None) if known_cost is None else known_cost

    def cost_words(self, choice: Choice) -> str:
        """Return the cost of a set with its unit and how it is known; "" if it is unknown."""
        latency_ms = self.latency_ms(choice.point)
        if latency_ms is not None:
            return f"{milliseconds(latency_ms)}, {self.known_by(choice.point, latency_ms)}"
        if choice.work is None:
            return ""
        return f"{choice.work:.4g} of estimated work"

    def known_by(self, point: FrontierPoint, latency_ms: float) -> str:
        """Return how this latency of a set is known.

        If no file of the set was timed, the latency may be that of the same layers in INT8 before
        repairs.
        """
        if point.measured_ms is None and latency_ms == point.predicted_ms:
            return "predicted"
        is_other_file = not point.names and not self.is_plan(point)
        if is_other_file and self.plan.recalibrated:
            return "measured before repairs"
        return "measured"

    def level(self, point: FrontierPoint) -> Estimate:
        """Return the metric on `confirm`: that of float minus the drop.

        A difference on the same samples is known more precisely than either of its terms.
        """
        return point.best_drop.under(self.plan.metric.float.value)

    def option(self, choice: Choice) -> Option:
        """Return a set as a row of the table."""
        point, metric = choice.point, self.metric
        drop, level, holdout = point.best_drop, self.level(point), point.holdout
        is_plan = self.is_plan(point)
        every = count(max(self.data.layers, len(point.names)), "layer")
        return Option(
            names=point.names,
            layers=f"{len(point.skip)} of {every}{format_words(point)}",
            accuracy=f"{metric.level(level.value)} {metric.interval(level)}".rstrip(),
            drop=f"{metric.change(drop.value, sign=False)} {metric.interval(drop)}".rstrip(),
            cost=self.cost_words(choice),
            holdout=""
            if holdout is None
            else f"{metric.level(holdout.value)} {metric.interval(holdout)}",
            command="" if is_plan else choice.command,
            allowed=None if choice.allowed is None else metric.shown(choice.allowed),
            is_plan=is_plan,
            state=self.state(choice),
        )

    def state(self, choice: Choice) -> str:
        """Return how likely a set meets the target by `confirm`, and what all samples say about the
        plan."""
        point, verdict = choice.point, verdict_in(self.data)
        chance = chance_words(point, self.plan)
        is_met = self.level(point).value >= self.plan.floor
        state = "met on confirm" if is_met else "missed on confirm"
        if chance:
            parts = parts_words(point.judged_on)
            state = f"{chance} to hold, judged on {parts} alone"
        if self.is_plan(point) and verdict is not None:
            return f"{state}; {verdict.accuracy} on all samples"
        return state

    def place(self, choice: Choice) -> _Place:
        """Return the position of a set in the picture."""
        point, level = choice.point, self.level(choice.point)
        left_out = f"{count(len(point.skip), 'layer')} left out{format_words(point)}"
        accuracy = f"{left_out}: {self.metric.level(level.value)}"
        title = joined(accuracy, self.cost_words(choice))
        across = self.cost(choice)
        if choice in self.shown:
            return _Place("option", across, level, title, self.shown.index(choice))
        is_float = len(point.skip) >= self.data.layers
        return _Place("float" if is_float else "beaten", across, level, title)

    def float_(self) -> list[_Place]:
        """Return the float model, if its latency is known and shown."""
        if self.across != "ms" or "float" not in self.times_ms:
            return []
        top, latency_ms = self.plan.metric.float, self.times_ms["float"]
        title = f"float: {self.metric.level(top.value)}, {milliseconds(latency_ms)}"
        return [_Place("float", latency_ms, Estimate(top.value, None, None, top.n), title)]

    def int8(self) -> list[_Place]:
        """Return everything in INT8 as calibrated, unless that is one of the sets."""
        whole = [choice for choice in self.choices if not choice.point.names]
        cost: float | None
        if not whole:
            cost = {"ms": self.times_ms.get("int8"), "layers": 0.0}.get(self.across)
        elif self.plan.metric.recalibrated is not None:
            cost = self.cost(whole[0])
        else:
            return []
        if cost is None:
            return []
        quantized = self.plan.metric.quantized
        title = f"INT8 as calibrated: {self.metric.level(quantized.value)}"
        return [_Place("int8", cost, Estimate(quantized.value, None, None, quantized.n), title)]

    def horizontal(
        self, costs: Sequence[float]
    ) -> tuple[tuple[tuple[float, str], ...], dict[float, float]]:
        """Return the ticks, and the position of each cost from 0 to 1.

        Positions are to scale, except that each number of layers has a slot of its own.
        """
        if self.across == "layers":
            slots = sorted(set(costs))
            middles = (np.arange(len(slots)) + 0.5) / len(slots)
            positions = dict(zip(slots, middles.tolist(), strict=True))
            return tuple((positions[cost], f"{cost:g}") for cost in slots), positions
        axis = axis_around(costs, zero=True)
        ticks = tuple((axis.at(tick), axis.label(tick)) for tick in axis.ticks)
        return ticks, {cost: axis.at(cost) for cost in costs}

    def mark(self, place: _Place, x: float) -> Mark:
        low, high = self.metric.shown_interval(place.level)
        y = self.metric.shown(place.level.value)
        return Mark(place.kind, x, y, low, high, place.title, place.option)


def _of_plan(plan: Plan) -> Choice:
    """Return the plan's own set, for a search that left no sets."""
    measured = plan.metric
    return Choice(
        FrontierPoint(
            plan.skip,
            measured.confirm,
            measured.confirm_drop or measured.counted_drop,
            measured.holdout,
            measured.holdout_drop,
            true_drop=measured.true_drop,
            wide=plan.wide,
            fp8=plan.fp8,
        )
    )
