"""Frozen records, the only data that passes from one step to the next.

A model's quantizers are grouped into units. A scan measures variants of the model, statistics turn
the measurements into effects of units, and a planner turns the effects into a plan.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]
    """Per-sample scores, shape [n] or [n, k]. The first axis is the sample."""
else:
    Scores = Any  # keeps numpy out of the start-up of the command line

Role = Literal["input", "weight", "output"]
Mode = Literal["disable", "enable"]
Severity = Literal["error", "warning", "note"]
AccuracyStatus = Literal["met", "not proven", "missed"]
SpeedRatio = Literal["faster", "slower", "no different"]
SpeedStatus = Literal[SpeedRatio, "same file", "not measured"]
Action = Literal["use", "prove", "risk", "bench", "float", "lower", "train", "repair"]
Tone = Literal["good", "open", "bad"]
UnitKind = Literal[
    "layer", "quantizer", "fan-out", "concat", "residual", "shared", "repvgg", "head", "pattern"
]

NOTHING: Mapping[Any, Any] = MappingProxyType({})
"""Default of a parameter that takes an optional mapping."""

SPLITS = ("rank", "confirm", "holdout")
"""Splits of the data set. `rank` is for sensitivities, `confirm` for choosing a plan, and `holdout`
for the reported accuracy; `holdout` is never used to choose."""


@dataclass(frozen=True)
class Quantizer:
    """One fake-quantization point of a calibrated model.

    name: exact name, unique in the model.
    layer: name of the operation that the quantizer belongs to.
    bits: width of the quantized values.
    axis: channel axis of a per-channel quantizer; None means per tensor.
    problem: why the quantizer cannot be used ("amax is missing"); None means it is calibrated.
    replaces: name of the quantizer that this one copies with another range; None for a quantizer of
        the model itself.
    format: number format of the quantized values, in words ("INT8", "FP8 E4M3", "INT4 in blocks of
        128").
    """

    name: str
    layer: str
    role: Role
    bits: int
    axis: int | None
    problem: str | None = None
    replaces: str | None = None
    format: str = "INT8"


@dataclass(frozen=True)
class Range:
    """A range that a quantizer can use instead of its own.

    quantizer: name of the quantizer.
    method: how the range was found ("mse", "percentile 99.9", "own", ...).
    amax: largest absolute value that does not clip, one per tensor, or one per channel along
        `axis`. With `low`, the largest value that does not clip.
    axis: channel axis of `amax`; None means per tensor.
    low: smallest value of an asymmetric grid that does not clip, at most 0; None means that the
        grid keeps its zero point.
    bias: correction added to the layer's bias while this weight is quantized, one value per output
        channel; None leaves the bias unchanged.
    bits: width of the integers with this range; None keeps the quantizer's own.
    rounding: by how many levels each weight is rounded away from its nearest level, packed as in
        `quantizers.rounding`; None rounds every value to the nearest.
    """

    quantizer: str
    method: str
    amax: tuple[float, ...]
    axis: int | None = None
    low: float | None = None
    bias: tuple[float, ...] | None = None
    bits: int | None = None
    rounding: str | None = None

    @cached_property
    def key(self) -> str:
        """Name by which simulators and journals identify the range, unique within a model."""
        parts: tuple[Any, ...] = (self.amax, self.axis)
        parts += () if self.low is None and self.bias is None else (self.low,)
        parts += () if self.bias is None else (self.bias,)
        parts += () if self.bits is None else (f"{self.bits} bits",)
        parts += () if self.rounding is None else (self.rounding,)
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:8]
        return f"{self.quantizer}@{self.method}#{digest}"


@dataclass(frozen=True, eq=False)
class Grid:
    """An integer grid.

    A value x becomes (clip(round(x / scale) + zero_point, low, high) - zero_point) * scale.

    scale: float32[1] per tensor, float32[channels] along `axis` otherwise; finite and > 0. With
        `block`, it has the shape of the tensor with fewer entries along `axis`.
    zero_point: the integer that stands for 0.
    low, high: the smallest and the largest integer.
    axis: channel axis; None means per tensor.
    block: number of consecutive values along `axis` that share one scale; None means one scale per
        channel or tensor.
    is_float: whether the levels are those of FP8 E4M3 instead of integers.
    """

    scale: NDArray[np.float32]
    zero_point: int
    low: int
    high: int
    axis: int | None
    block: int | None = None
    is_float: bool = False


@dataclass(frozen=True)
class Unit:
    """What a scan toggles: a layer, a group of layers or one quantizer.

    quantizers: exact names of its quantizers.
    kind: why its quantizers switch together; "head" and "repvgg" also mark single layers.
    layers: names of the layers that it holds; empty for a unit that is one layer.
    """

    name: str
    quantizers: tuple[str, ...]
    kind: UnitKind = "layer"
    layers: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names that a pattern may match: the unit's own and those of its layers."""
        return (self.name, *(layer for layer in self.layers if layer != self.name))


NodeKind = Literal["layer", "join", "input", "output"]


@dataclass(frozen=True)
class GraphNode:
    """A node in the graph of a model's layers.

    kind: "layer", "input", "output", or "join" for an operation outside all layers that combines
        tensors of several nodes.
    name: unique among the nodes of its kind; for a layer, the name that its quantizers refer to.
    operation: ONNX operator type, such as "Conv"; for a layer, that of the operation with its
        weight; "" if there is none.
    """

    kind: NodeKind
    name: str
    operation: str = ""


@dataclass(frozen=True)
class ModelGraph:
    """Which layers of a model pass tensors to each other.

    nodes: in the order of execution.
    edges: (before, after), positions in `nodes`.
    meetings: groups of quantizers with different ranges that read the same tensor, or tensors
        joined by one Concat. An engine requantizes there.
    """

    nodes: tuple[GraphNode, ...]
    edges: tuple[tuple[int, int], ...]
    meetings: tuple[tuple[str, ...], ...] = ()

    def of_kind(self, *kinds: NodeKind) -> list[int]:
        """Return the positions of all nodes of these kinds."""
        return [at for at, node in enumerate(self.nodes) if node.kind in kinds]

    def without(self, nodes: Collection[int]) -> ModelGraph:
        """Return the graph without the nodes at these positions and without their edges."""
        kept = [at for at in range(len(self.nodes)) if at not in nodes]
        position = {at: new for new, at in enumerate(kept)}
        edges = [edge for edge in self.edges if position.keys() >= set(edge)]
        return replace(
            self,
            nodes=tuple(self.nodes[at] for at in kept),
            edges=tuple((position[before], position[after]) for before, after in edges),
        )


@dataclass(frozen=True)
class OnGrid:
    """How well the integer grid of a quantizer represents the values it receives.

    ends: smallest and largest value that does not clip, over all channels.
    step: smallest and largest step of the grid, over all channels.
    clipped: fraction of the values that clip.
    rounding: squared error of the values within the range, averaged over all values, as a fraction
        of the mean square of all values.
    clipping: the same for the values outside the range.
    median_channel: rounding plus clipping error of the median output channel of a weight, as a
        fraction of that channel's own mean square; None without such channels.
    """

    ends: tuple[float, float]
    step: tuple[float, float]
    clipped: float
    rounding: float
    clipping: float
    median_channel: float | None = None


@dataclass(frozen=True)
class Distribution:
    """Distribution of the values that one quantizer receives while nothing is quantized.

    low, high: smallest and largest value.
    counts: number of values in each of the bins of equal width between `low` and `high`.
    on_grid: None for a format without an integer grid.
    channels: for a weight, the largest absolute value of each output channel in descending order,
        or of 64 evenly spaced ones if there are more than 64 channels; empty for activations.
    """

    quantizer: str
    role: Role
    low: float
    high: float
    counts: tuple[int, ...]
    on_grid: OnGrid | None = None
    channels: tuple[float, ...] = ()


@dataclass(frozen=True)
class Distributions:
    """Distributions of the values of all quantizers.

    samples: number of calibration samples on which the activations were observed. Large tensors are
        subsampled at even steps.
    """

    samples: int
    quantizers: tuple[Distribution, ...]


@dataclass(frozen=True)
class Variant:
    """The model with some quantizers disabled and some ranges replaced.

    Two variants with the same `disabled` and `ranges` are the same variant, whatever their labels.

    label: what reports call the variant.
    disabled: exact names of the disabled quantizers.
    ranges: ranges that replace those of their quantizers.
    """

    label: str
    disabled: frozenset[str]
    ranges: frozenset[Range] = frozenset()

    @cached_property
    def switched(self) -> frozenset[str]:
        """What a simulator has to switch: names of disabled quantizers and keys of replaced
        ranges."""
        return self.disabled | {replacement.key for replacement in self.ranges}

    @cached_property
    def key(self) -> str:
        """Name by which a journal identifies the variant."""
        return hashlib.sha256("\n".join(sorted(self.switched)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Finding:
    """One result of a check before the work begins.

    code: stable identifier in kebab-case, for programs.
    severity: an "error" stops the work, a "warning" is repeated wherever the results are shown, and
        a "note" is only information.
    where: the quantizer, layer, tensor, split or file concerned; "" for the whole task.
    message: one sentence that says what must hold and what was found.
    fix: what to do about it; "" for a note.
    """

    code: str
    severity: Severity
    where: str
    message: str
    fix: str


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval.

    low, high: ends of the interval; None if there is none (n < 2).
    n: number of samples.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def between(cls, value: float, low: float, high: float, n: int) -> Estimate:
        """Return an estimate with this interval, or without one if an end is not finite."""
        if math.isfinite(low) and math.isfinite(high):
            return cls(value, low, high, n)
        return cls(value, None, None, n)

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None and self.high is not None

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the interval; (-inf, inf) without one, since the value may then be
        anything."""
        if self.low is None or self.high is None:
            return -math.inf, math.inf
        return self.low, self.high

    @property
    def sides(self) -> tuple[float, float]:
        """How far the interval reaches below and above the value; inf without an interval."""
        low, high = self.ends
        return self.value - low, high - self.value

    def allows(self, value: float) -> bool:
        """Return whether this value is consistent with the data, i.e. lies in the interval."""
        low, high = self.ends
        return low <= value <= high

    def plus(self, by: float) -> Estimate:
        """Return the estimate shifted up by `by`."""
        low, high = self.ends
        return Estimate.between(self.value + by, low + by, high + by, self.n)

    def under(self, level: float) -> Estimate:
        """Return the estimate of `level` minus this one, for a level that is known exactly."""
        low, high = self.ends
        return Estimate.between(level - self.value, level - high, level - low, self.n)


@dataclass(frozen=True)
class TrueDrop(Estimate):
    """Drop in the population that the samples come from, see `stats.soft_drop`.

    parts: splits whose labels it counts; empty if the file is from a version that did not keep
        them.
    """

    parts: tuple[str, ...] = ()


def speed_from_ratio(ratio: Estimate) -> SpeedRatio:
    """Return whether a file is faster than another, given the ratio of their speeds."""
    if ratio.allows(1):
        return "no different"
    return "faster" if ratio.value > 1 else "slower"


@dataclass(frozen=True)
class Effect:
    """Sensitivity of one unit.

    rank: 1 is the most sensitive; unique.
    tie: rank of the first unit that the data cannot distinguish from this one; equal to `rank` if
        there is none.
    effect: in mode `disable`, the metric gained when only this unit is left unquantized; in mode
        `enable`, the metric lost when only this unit is quantized. In the metric's own unit. n = 0
        marks a unit that a race ranked by its signal alone; its value, 0, and `metric` then carry
        no information.
    metric: aggregate metric of the variant itself.
    judged: False if the unit reaches no output that the score reads, so that its effect is unknown.
    """

    rank: int
    tie: int
    unit: str
    effect: Estimate
    metric: float
    judged: bool = True

    @property
    def is_measured(self) -> bool:
        """Whether the score reads the unit's output and samples were spent on measuring it."""
        return self.judged and self.effect.n > 0


@dataclass(frozen=True)
class Target:
    """The accuracy that a plan must keep. Exactly one of the first three is given.

    metric: lowest metric, absolute.
    drop: largest loss against float, in the metric's unit.
    relative: largest loss as a fraction of float's metric.
    confidence: probability with which the true metric, not the one of these samples, must meet the
        target.
    """

    metric: float | None = None
    drop: float | None = None
    relative: float | None = None
    confidence: float = 0.8

    def floor(self, float_metric: float) -> float:
        """Return the lowest metric that meets the target.

        float_metric: baseline of the float model on the same samples.
        """
        if self.metric is not None:
            return self.metric
        if self.drop is not None:
            return float_metric - self.drop
        assert self.relative is not None
        return float_metric - self.relative * abs(float_metric)


@dataclass(frozen=True)
class PlanStep:
    """A skip-set that a planner tried on `confirm`. Steps are kept in the order tried.

    metric: of the set, on the samples used.
    met: whether it met the target.
    n: number of samples after which the answer was settled.
    wide: units that stayed quantized with 16-bit activations.
    """

    skip: tuple[str, ...]
    metric: float
    met: bool
    n: int
    wide: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The set in the notation of planners, see `names_of_set`."""
        return names_of_set(self.skip, self.wide)


@dataclass(frozen=True)
class Recalibrated:
    """A unit that stays in INT8 with other ranges than its own, or with a corrected bias.

    method: how the ranges were found, in words.
    before, ranges: old and new ranges, for the same quantizers in the same order.
    gain: paired gain of the metric on `rank`, on top of the units recalibrated before it.
    together: whether all units were recalibrated at once; `gain` is then that of all of them.
    """

    unit: str
    method: str
    before: tuple[Range, ...]
    ranges: tuple[Range, ...]
    gain: Estimate
    together: bool = False

    @property
    def pairs(self) -> tuple[tuple[Range, Range], ...]:
        """Old and new range of each quantizer."""
        return tuple(zip(self.before, self.ranges, strict=True))


@dataclass(frozen=True)
class Tuning:
    """Result of fine-tuning all layers in INT8 by distillation from the float model.

    before, after: metric of everything in INT8 on `rank`, with all other repairs and with
        fine-tuning on top of them. Nothing was fitted on these samples.
    kept: whether it helped there, so that plans have it.
    """

    before: Estimate
    after: Estimate
    kept: bool


@dataclass(frozen=True)
class Widened:
    """A unit whose activations are quantized with 16 bits; its weights keep their format.

    ranges: 16-bit ranges of all its activations, and ranges without corrections of those weights
        that repairs had fitted to activations in 8 bits.
    """

    unit: str
    ranges: tuple[Range, ...]


@dataclass(frozen=True)
class PlanMetric:
    """Accuracy of a plan.

    float, quantized, confirm: the float model, everything in INT8 with the original ranges, and the
        plan, on the `confirm` split, where the target was checked.
    recalibrated: everything in INT8 with the ranges of the plan, on `confirm`; None if the plan
        replaces none.
    holdout, holdout_float: the plan and the float model on `holdout`, samples that no choice has
        seen.
    holdout_drop: float minus plan on `holdout`, paired.
    holdout_quantized: everything in INT8 on `holdout`; None if it was not measured.
    confirm_drop: float minus plan on `confirm`, corrected for having chosen the plan there if more
        than one set was tried (`stats.selection`); None if the plan was not measured on all of it.
    true_drop: float minus plan for the population that the samples come from, estimated from
        counted answers and from how far float's own answers move (`stats.soft_drop`); None for a
        task without a soft drop, and for float itself.
    is_float: whether the plan leaves everything out, so that it is float itself and loses nothing.
    """

    name: str
    float: Estimate
    quantized: Estimate
    confirm: Estimate
    holdout: Estimate
    holdout_float: Estimate
    holdout_drop: Estimate
    recalibrated: Estimate | None = None
    confirm_drop: Estimate | None = None
    holdout_quantized: Estimate | None = None
    true_drop: TrueDrop | None = None
    is_float: bool = False

    @property
    def counted_drop(self) -> Estimate:
        """Float minus plan on `confirm`, as counted there and without an interval."""
        return Estimate(self.float.value - self.confirm.value, None, None, self.confirm.n)


@dataclass(frozen=True)
class Advice:
    """Recommendation at the end of a run.

    choice: "ptq" if everything in INT8 is accurate enough, "partial" for the plan, "qat" for
        quantization-aware training, or "float".
    sentences: the reasons with their numbers, the most important first.
    """

    choice: Literal["ptq", "partial", "qat", "float"]
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """Conclusion of a run in three lines, each with a status and a sentence that gives the numbers.

    accuracy: "met" if the drop is within the target with the target's `confidence`; "missed" if it
        exceeds the target with the same confidence, or if no set tried reached it; "not proven"
        otherwise.
    speed: the plan's file against the float file, in one runtime; "same file" if nothing is in
        INT8.
    action: what to do, as listed below.
    chance: probability that the true drop is within the target; None without an interval.

    Actions:
    - "use": use the file.
    - "prove": measure the accuracy on more samples.
    - "risk": accept the risk or choose another target, because no realistic number of samples would
      settle it.
    - "bench": measure the latency.
    - "float": stay with the float model.
    - "lower": export the file for the runtime in which it was slow.
    - "train": train the model for INT8.
    - "repair": the accuracy in the runtime differs from the simulated one.
    """

    accuracy: AccuracyStatus
    accuracy_sentence: str
    speed: SpeedStatus
    speed_sentence: str
    action: Action
    action_sentence: str
    chance: float | None = None

    @property
    def tone(self) -> Tone:
        """Good only for a file worth using: a plan can meet its target and still not be worth
        it."""
        if self.action == "use":
            return "good"
        return "bad" if self.accuracy == "missed" or self.action == "repair" else "open"


@dataclass(frozen=True)
class Plan:
    """A skip-set with its evidence.

    skip: exact names of the units left unquantized, the most sensitive first.
    quantizers: exact names of all quantizers that it disables.
    met: whether the target was met on `confirm`.
    floor: the metric that had to be reached on `confirm`.
    path: the sets that the planner tried.
    planner: name of the planner.
    reason: why the target was missed; None if it was met.
    try_next: what else to try after a missed target.
    recalibrated: units that stay in INT8 with other ranges than their own.
    notes: observations of the search, such as a path that is not monotone.
    predicted_ms: latency predicted by the cost model; None if the cost model holds no times.
    measured_ms: median latency of the exported plan; None until measured. Both latencies are those
        of the runtime that the cost model or the bench was made for.
    formats: unit -> format that the plan runs it in, in words ("INT8", "FP8 E4M3", "INT8 with INT16
        activations", "float" for those in `skip`); empty in plans written by versions that did not
        record it.
    widened: units with 16-bit activations.
    tuning: what fine-tuning gave; None if it was not tried.
    """

    skip: tuple[str, ...]
    quantizers: tuple[str, ...]
    met: bool
    target: Target
    floor: float
    metric: PlanMetric
    path: tuple[PlanStep, ...]
    planner: str
    reason: str | None = None
    try_next: tuple[str, ...] = ()
    recalibrated: tuple[Recalibrated, ...] = ()
    notes: tuple[str, ...] = ()
    predicted_ms: float | None = None
    measured_ms: float | None = None
    advice: Advice | None = None
    verdict: Verdict | None = None
    formats: dict[str, str] = field(default_factory=dict)
    widened: tuple[Widened, ...] = ()
    tuning: Tuning | None = None

    @property
    def wide(self) -> tuple[str, ...]:
        """Units that have activations of 16 bits, as `PlanStep` names them."""
        return tuple(widened.unit for widened in self.widened)

    @property
    def outside(self) -> tuple[str, ...]:
        """Units that do not run in their own format: those in float or with 16-bit activations."""
        return (*self.skip, *self.wide)

    @property
    def names(self) -> tuple[str, ...]:
        """The set in the notation of planners, see `names_of_set`."""
        return names_of_set(self.skip, self.wide)

    def is_of(self, names: Iterable[str]) -> bool:
        """Return whether the plan is this set, given in the notation of planners."""
        return set(names) == set(self.names)

    @property
    def wide_ranges(self) -> tuple[Range, ...]:
        """Ranges of all units with 16-bit activations."""
        return tuple(wide_range for unit in self.widened for wide_range in unit.ranges)

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Ranges of all recalibrated units."""
        return tuple(new_range for unit in self.recalibrated for new_range in unit.ranges)

    @property
    def every_range(self) -> tuple[Range, ...]:
        """All ranges of the plan that replace those of its quantizers."""
        return (*self.ranges, *self.wide_ranges)


@dataclass(frozen=True)
class Border:
    """Two units that exchange a tensor.

    b: "" for what is never quantized, such as the model's input.
    cost: cost of converting the tensor, paid if exactly one of the units is left unquantized.
    """

    a: str
    b: str
    cost: float


@dataclass(frozen=True)
class CostModel:
    """What the model costs to run with a skip-set left out of INT8.

    kind: where the numbers come from ("macs", "operations", "table", "engine").
    unit: "ms" for measured times; "work" is not a time and only good for comparisons.
    base: cost of everything in INT8, without borders.
    units: unit -> cost added by leaving it out; negative if it is faster in float. With 16-bit
        activations a unit adds `WIDE_SHARE` of that, unless its `wide_name` has an entry of its
        own.
    borders: costs of conversions between units.
    note: a reason not to trust the numbers; "" if there is none.
    error: standard deviation of the measured time of a skip-set around the prediction; 0 if it was
        not estimated.
    """

    kind: str
    unit: Literal["ms", "work"]
    base: float
    units: dict[str, float]
    borders: tuple[Border, ...] = ()
    note: str = ""
    error: float = 0.0

    def of(self, names: Iterable[str]) -> float:
        """Return the cost of a set, given in the notation of planners."""
        names = set(names)
        outside = {*names, *parts_of_set(names)[1], ""}
        cut = sum(
            border.cost for border in self.borders if (border.a in outside) != (border.b in outside)
        )
        return self.base + sum(self._own(name) for name in names) + cut

    def _own(self, name: str) -> float:
        if name in self.units:
            return self.units[name]
        return WIDE_SHARE * self.units[name.removesuffix(IN_16_BITS)]


def cost_of(names: Collection[str], cost: CostModel | None) -> float:
    """Return the cost by which skip-sets are compared: that of the model, or the size of the set
    without one.

    names: a set in the notation of planners.
    """
    if cost is not None:
        return cost.of(names)
    skip, wide = parts_of_set(names)
    return len(skip) + WIDE_SHARE * len(wide)


def unit_cost(units: Iterable[str]) -> CostModel:
    """Return a cost model that counts units, for a model of which neither times nor work are
    known."""
    return CostModel("units", "work", 0.0, dict.fromkeys(units, 1.0))


def predicted_ms(names: Collection[str], cost: CostModel | None) -> float | None:
    """Return the predicted time of the whole engine in milliseconds.

    names: a set in the notation of planners.
    Returns None if the cost model holds no times, or if the set has 16-bit activations, for which
    no time was measured.
    """
    if cost is None or cost.unit != "ms" or parts_of_set(names)[1]:
        return None
    return cost.of(names)


WIDE_SHARE = 128 / 1024
"""Bit operations of a multiplication of 8-bit weights with 16-bit activations, as a fraction of
those in float. It is the relative cost of widening a unit instead of leaving it in float."""

IN_16_BITS = " in 16 bits"
"""Suffix that planners add to a unit's name to mean its 16-bit activations."""


def wide_name(unit: str) -> str:
    """Return the name that planners use for a unit with 16-bit activations.

    The bare name of a unit means that it is left out.
    """
    return unit + IN_16_BITS


def names_of_set(skip: Iterable[str], wide: Iterable[str]) -> tuple[str, ...]:
    """Return a set in the notation of planners: names of units left out, and `wide_name`s of units
    with 16-bit activations."""
    return (*skip, *map(wide_name, wide))


def parts_of_set(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split a set in the notation of planners into units left out and units with 16-bit
    activations.

    >>> parts_of_set(["fc", wide_name("conv1")])
    (('fc',), ('conv1',))
    """
    skip, wide = list[str](), list[str]()
    for name in names:
        if name.endswith(IN_16_BITS):
            wide.append(name.removesuffix(IN_16_BITS))
        else:
            skip.append(name)
    return tuple(skip), tuple(wide)


@dataclass(frozen=True)
class FrontierPoint:
    """A skip-set that was measured on all of `confirm`.

    confirm: its metric.
    drop: float minus this set on `confirm`, paired.
    holdout, holdout_drop: the same on `holdout`; None if it was not measured there.
    predicted_ms, measured_ms: as in `Plan`.
    true_drop: as in `PlanMetric`, but without `holdout`, which chooses nothing.
    wide: as in `PlanStep`.
    """

    skip: tuple[str, ...]
    confirm: Estimate
    drop: Estimate
    holdout: Estimate | None = None
    holdout_drop: Estimate | None = None
    predicted_ms: float | None = None
    measured_ms: float | None = None
    true_drop: TrueDrop | None = None
    wide: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The set in the notation of planners, see `names_of_set`."""
        return names_of_set(self.skip, self.wide)

    @property
    def best_drop(self) -> Estimate:
        """The best available estimate of the drop."""
        return self.drop if self.true_drop is None else self.true_drop

    @property
    def judged_on(self) -> tuple[str, ...]:
        """Splits whose labels `best_drop` counts."""
        return ("confirm",) if self.true_drop is None else self.true_drop.parts

    @property
    def likely_drop(self) -> float:
        """Value of the best available estimate of the drop."""
        return self.best_drop.value


@dataclass(frozen=True)
class Timing:
    """Latency of one file in one runtime. All files of a bench are timed interleaved in the same
    run.

    spread_ms: interquartile range of the times.
    ratio: time of the float file divided by the time of this one, with a bootstrap interval; above
        1 is faster than float.
    against_fp16: the same ratio with the FP16 file; None if there is no such file, or if the
        runtime computed it in another type.
    same: other variants that are stored in this very file.
    """

    file: str
    variant: Literal["float", "fp16", "int8", "partial"]
    runtime: str
    precision: str
    batch: int
    threads: int
    n: int
    median_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    spread_ms: float
    ratio: Estimate
    against_fp16: Estimate | None = None
    same: tuple[str, ...] = ()

    @property
    def variants(self) -> tuple[str, ...]:
        """All variants that this file is."""
        return (self.variant, *self.same)


def timing_of(variant: str, timings: Iterable[Timing]) -> Timing | None:
    """Return the timing of the file of this variant, or None if it was not timed."""
    return next((timing for timing in timings if variant in timing.variants), None)


@dataclass(frozen=True)
class RuntimeAccuracy:
    """The metric of the plan's file in the runtime where it was timed, on `holdout`.

    level: the metric in the runtime.
    simulated: the simulated metric of the plan on the same samples.
    drop: float minus the file, paired.
    differs: whether file and simulation differ by more than chance.
    cause: the known cause of a difference; "" if none is known.
    """

    runtime: str
    level: Estimate
    simulated: Estimate
    drop: Estimate
    differs: bool
    cause: str = ""


@dataclass(frozen=True)
class BenchResult:
    """Latencies of the files of a run and what they mean.

    sentences: the conclusions in words, the most important first.
    environment: name -> value of hardware and software facts.
    accuracy: variant -> metric of its file in this runtime on `holdout`; empty if not asked for.
    skip: units that the partial file leaves unquantized.
    judged: accuracy of the plan's file in the runtime; None if it was not measured.
    in_int8: number of layers of the plan's file that ran in INT8, and number that it quantizes;
        None if the runtime does not tell.
    keeps_form: whether the files keep the form of the file that was given, so that no file was
        lowered for a runtime.
    """

    timings: tuple[Timing, ...]
    sentences: tuple[str, ...]
    environment: dict[str, str]
    accuracy: dict[str, Estimate]
    skip: tuple[str, ...]
    judged: RuntimeAccuracy | None = None
    in_int8: tuple[int, int] | None = None
    keeps_form: bool = False


@dataclass(frozen=True)
class BuiltLayer:
    """A weighted layer of a file, as planned and as built.

    planned: "int8" or "float".
    built: precision in the engine ("int8", "fp32", ...); None if no layer of the engine names it.
    """

    layer: str
    planned: str
    built: str | None

    @property
    def as_planned(self) -> bool:
        """Whether the layer is in INT8 exactly if the plan wants it to be."""
        return self.built is not None and (self.built == "int8") == (self.planned == "int8")


@dataclass(frozen=True)
class EngineStructure:
    """The structure of an engine that was built from a file but not executed.

    version: version of the builder.
    sm: compute capability that the engine is for.
    layers: the weighted layers in the order of the file.
    kernels: number of engine layers that write a tensor.
    requantize_kernels: number of those that only quantize, dequantize, cast or reorder.
    activation_bytes: bytes that all kernels write for one sample, without weights.
    """

    version: str
    sm: int
    layers: tuple[BuiltLayer, ...]
    kernels: int
    requantize_kernels: int
    activation_bytes: int

    @property
    def as_planned(self) -> bool:
        """Whether every weighted layer is built as planned."""
        return all(layer.as_planned for layer in self.layers)

    @property
    def kept_plans(self) -> dict[str, tuple[int, int]]:
        """Planned precision ("INT8" or "float") -> (layers built as planned, all such layers)."""
        found = {}
        for planned, words in (("int8", "INT8"), ("float", "float")):
            layers = [layer for layer in self.layers if layer.planned == planned]
            if layers:
                found[words] = sum(layer.as_planned for layer in layers), len(layers)
        return found

    @property
    def sentence(self) -> str:
        """Description of the structure in words; it makes no claim about time."""
        shares = [
            f"{right} of {every} layers in {planned} as planned"
            for planned, (right, every) in self.kept_plans.items()
        ]
        return (
            f"TensorRT-RTX {self.version} builds it for SM {self.sm}: {'; '.join(shares)}; "
            f"{self.kernels} kernels, {self.requantize_kernels} of which only requantize; "
            f"{self.activation_bytes / 1e6:.2f} MB of activations. Nothing was executed."
        )


class Named(Protocol):
    """Anything with a name, such as a quantizer or a unit."""

    @property
    def name(self) -> str: ...


def names_of(things: Iterable[Named]) -> list[str]:
    """Return the names, in order."""
    return [thing.name for thing in things]
