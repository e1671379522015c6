"""Frozen records: the only things that pass from one step to the next.

A model's quantizers become units, units become variants, variants are measured,
measurements become effects, effects become a plan.
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
    """Per-sample scores: first axis is the sample, [n] or [n, k]."""
else:
    Scores = Any  # numpy stays out of the start of the command line

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
"""The default of a parameter that may map nothing."""

SPLITS = ("rank", "confirm", "holdout")
"""rank: sensitivities; confirm: choosing a plan; holdout: the reported accuracy, never used to
choose."""


@dataclass(frozen=True)
class Quantizer:
    """One fake-quantization point of a calibrated model.

    name: exact and unique in the model. layer: the operation it belongs to.
    axis: channel axis of a per-channel quantizer; None means per tensor.
    problem: why it cannot be used ("amax is missing"); None means calibrated.
    replaces: the quantizer of which this is the same with another range; None for those of the
    model itself.
    format: of the quantized values, as one says it ("INT8", "FP8 E4M3", "INT4 in blocks of 128").
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
    """A range that a quantizer may take in place of its own.

    method: how it was found ("mse", "percentile 99.9", "own", ...). amax: largest absolute value
    that does not clip, one per tensor, or one per channel along `axis`. low: of an asymmetric grid
    the smallest value that does not clip, 0 at most, beside the largest in `amax`; None where the
    grid keeps its zero point. bias: of a weight's quantizer, what is added to the bias of its layer
    while the weight is quantized, one per output channel; None leaves the bias as it is. bits: how
    many the integers then have; None for as many as they have. rounding: of a weight's quantizer,
    which values go to the other one of the two levels around them, packed as `quantizers.rounding`
    says; None where all go to the nearest.
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
        """The name under which simulators and journals know it: no two ranges of one model have the
        same."""
        parts: tuple[Any, ...] = (self.amax, self.axis)
        parts += () if self.low is None and self.bias is None else (self.low,)
        parts += () if self.bias is None else (self.bias,)
        parts += () if self.bits is None else (f"{self.bits} bits",)
        parts += () if self.rounding is None else (self.rounding,)
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:8]
        return f"{self.quantizer}@{self.method}#{digest}"


@dataclass(frozen=True, eq=False)
class Grid:
    """An integer grid: x is replaced by (clip(round(x / scale) + zero_point, low, high) -
    zero_point) * scale.

    scale: float32[1] per tensor, float32[channels] along `axis` otherwise; finite and > 0.
    block: how many values along `axis` have one scale, which then has the tensor's shape with fewer
    entries along `axis`; None where a scale is for a channel or a tensor.
    is_float: the levels are those of FP8 E4M3 instead of integers.
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
    """What a scan toggles: a layer, a group or one quantizer, with the exact names of its
    quantizers.

    kind: why its quantizers switch together; "head" and "repvgg" also mark single layers. layers:
    those it is of; empty for a unit that is one layer.
    """

    name: str
    quantizers: tuple[str, ...]
    kind: UnitKind = "layer"
    layers: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What a pattern may match: the unit's own name and those of its layers."""
        return (self.name, *(layer for layer in self.layers if layer != self.name))


NodeKind = Literal["layer", "join", "input", "output"]


@dataclass(frozen=True)
class GraphNode:
    """A place in the graph of a model. kind: "join" is an operation of no layer where values of
    several places meet. name: unique among nodes of its kind; of a layer, as quantizers have it.
    operation: in ONNX's words, such as "Conv"; of a layer that of its weight; "" where there is
    none.
    """

    kind: NodeKind
    name: str
    operation: str = ""


@dataclass(frozen=True)
class ModelGraph:
    """Which layers of a model hand each other tensors.

    nodes: in the order in which they are computed. edges: (before, after), positions in `nodes`.
    meetings: quantizers that read the same values, or what one Concat joins, with different ranges:
    there an engine requantizes.
    """

    nodes: tuple[GraphNode, ...]
    edges: tuple[tuple[int, int], ...]
    meetings: tuple[tuple[str, ...], ...] = ()

    def of_kind(self, *kinds: NodeKind) -> list[int]:
        """The positions of all nodes of these kinds."""
        return [at for at, node in enumerate(self.nodes) if node.kind in kinds]

    def without(self, nodes: Collection[int]) -> ModelGraph:
        """The graph without these nodes, by their positions, and without their edges."""
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
    """What the integer grid of a quantizer makes of the values that it gets.

    ends: the smallest and the largest value that does not clip; step: the smallest and the largest;
    of all channels both. clipped: share of the values that clip. rounding, clipping: mean squared
    errors of the values within the range and of those beyond it, over all values, as shares of
    their mean square. median_channel: both together in the output channel of a weight that is in
    the middle, as a share of its own mean square; None where there are no such channels.
    """

    ends: tuple[float, float]
    step: tuple[float, float]
    clipped: float
    rounding: float
    clipping: float
    median_channel: float | None = None


@dataclass(frozen=True)
class Distribution:
    """What one quantizer gets while nothing is quantized.

    low, high: the smallest and the largest value. counts: of values in bins of equal width between
    them. on_grid: None where the format has no integer grid. channels: of a weight the largest
    absolute value of each output channel, the largest first; of more than 64 channels, 64 evenly
    spaced ones; empty for activations.
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
    """samples: of the calibration data, on which activations were seen. Of large tensors, evenly
    spaced values were."""

    samples: int
    quantizers: tuple[Distribution, ...]


@dataclass(frozen=True)
class Variant:
    """The model with some quantizers disabled, and some with another range than their own.

    Two variants with the same `disabled` and `ranges` are the same variant, whatever their labels.
    """

    label: str
    disabled: frozenset[str]
    ranges: frozenset[Range] = frozenset()

    @cached_property
    def switched(self) -> frozenset[str]:
        """What a simulator is asked for: names of disabled quantizers and keys of the ranges in
        use."""
        return self.disabled | {one.key for one in self.ranges}

    @cached_property
    def key(self) -> str:
        """The name under which a journal knows it."""
        return hashlib.sha256("\n".join(sorted(self.switched)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Finding:
    """One thing that a check found before the work began.

    code: stable and kebab-case, for programs. severity: an "error" stops the work, a "warning" is
    shown wherever the results are, a "note" only tells. where: the quantizer, layer, tensor, split
    or file that it is about; "" for the whole task. message: one sentence that says what must hold
    and what came. fix: what to do about it; "" for a note.
    """

    code: str
    severity: Severity
    where: str
    message: str
    fix: str


@dataclass(frozen=True)
class Estimate:
    """A value with its interval. low and high are None where no interval can be had (n < 2)."""

    value: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def between(cls, value: float, low: float, high: float, n: int) -> Estimate:
        """An estimate with these ends; without an interval where one of them is not finite."""
        if math.isfinite(low) and math.isfinite(high):
            return cls(value, low, high, n)
        return cls(value, None, None, n)

    @property
    def has_interval(self) -> bool:
        """Whether anything is known of chance."""
        return self.low is not None and self.high is not None

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the interval; without one -inf and inf, for it may then be any value."""
        if self.low is None or self.high is None:
            return -math.inf, math.inf
        return self.low, self.high

    @property
    def sides(self) -> tuple[float, float]:
        """How far the interval reaches below and above the value; inf where there is none."""
        low, high = self.ends
        return self.value - low, high - self.value

    def allows(self, value: float) -> bool:
        """Whether the data cannot tell the estimate from this value."""
        low, high = self.ends
        return low <= value <= high

    def plus(self, by: float) -> Estimate:
        """The estimate of this much more."""
        low, high = self.ends
        return Estimate.between(self.value + by, low + by, high + by, self.n)

    def under(self, level: float) -> Estimate:
        """The estimate of how far this one is under a level that is known for sure."""
        low, high = self.ends
        return Estimate.between(level - self.value, level - high, level - low, self.n)


def speed_from_ratio(ratio: Estimate) -> SpeedRatio:
    """What a speed says that was measured as a multiple of another one."""
    if ratio.allows(1):
        return "no different"
    return "faster" if ratio.value > 1 else "slower"


@dataclass(frozen=True)
class Effect:
    """Sensitivity of one unit.

    effect: mode `disable`: metric gained when only this unit is left unquantized; mode `enable`:
    metric lost
        when only this unit is quantized. In the metric's own unit. n is 0 for a unit that a race
        ranked by its signal alone: its value, 0, and `metric` then say nothing.
    metric: the aggregate metric of the variant itself.
    judged: False where what the unit computes reaches no output that the score reads, so that its
    effect is not known.
    rank: 1 is the most sensitive; unique. tie: the rank of the first unit that the data cannot tell
    from this
        one; equal to `rank` where there is none.
    """

    rank: int
    tie: int
    unit: str
    effect: Estimate
    metric: float
    judged: bool = True

    @property
    def is_measured(self) -> bool:
        """Whether the metric sees the unit and was spent on it."""
        return self.judged and self.effect.n > 0


@dataclass(frozen=True)
class Target:
    """What the plan must hold: exactly one of the first three is given.

    metric: absolute. drop: largest loss against float, in the metric's unit. relative: the same as
    a fraction of float. confidence: the probability with which the true metric must meet it, not
    that of the samples at hand.
    """

    metric: float | None = None
    drop: float | None = None
    relative: float | None = None
    confidence: float = 0.8

    def floor(self, float_metric: float) -> float:
        """The lowest metric that meets the target, given the float baseline on the same samples."""
        if self.metric is not None:
            return self.metric
        if self.drop is not None:
            return float_metric - self.drop
        assert self.relative is not None
        return float_metric - self.relative * abs(float_metric)


@dataclass(frozen=True)
class PlanStep:
    """A skip-set that a planner tried on `confirm`, in the order tried. n: samples that settled it.
    wide: units that were not left out, but had activations of 16 bits."""

    skip: tuple[str, ...]
    metric: float
    met: bool
    n: int
    wide: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The set as planners name it."""
        return names_of_set(self.skip, self.wide)


@dataclass(frozen=True)
class Recalibrated:
    """A unit that stays in INT8 with other ranges than it came with, or a corrected bias.

    method: in words. before, ranges: old and new, for the same quantizers. gain: of the metric on
    `rank`, paired: on top of the units recalibrated before it, or of all of them at once where they
    were taken together.
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
class Widened:
    """A unit that has activations of 16 bits in place of its own, and its weights as they are.
    ranges: of all its activations."""

    unit: str
    ranges: tuple[Range, ...]


@dataclass(frozen=True)
class PlanMetric:
    """Accuracy of a plan. float, quantized and confirm are on the `confirm` split, where the target
    was checked; holdout is on samples that no choice has seen; holdout_float, holdout_drop (paired,
    float minus plan) and holdout_quantized too, the last None where it was not measured. quantized
    is everything in INT8 with its own ranges, recalibrated with those of the plan; None where it
    has none.
    confirm_drop: float minus plan on `confirm`, corrected for choosing the plan there
    (`stats.selection`) where more than one set was tried; None where the plan was not measured on
    all of it.
    true_drop: float minus plan in the world that the samples are from, from what was counted on
    `rank`, `confirm` and `holdout` and from how far float's own answers move (`stats.soft_drop`);
    None where the task has no soft drop."""

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
    true_drop: Estimate | None = None

    @property
    def counted_drop(self) -> Estimate:
        """Float less the plan on `confirm`, as it was counted there: without an interval."""
        return Estimate(self.float.value - self.confirm.value, None, None, self.confirm.n)


@dataclass(frozen=True)
class Advice:
    """What to do in the end. choice: all of INT8 is enough; the plan; quantization-aware training;
    or float.

    sentences: why, with the numbers behind it, the most important first.
    """

    choice: Literal["ptq", "partial", "qat", "float"]
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What a run found, in three lines that a reader can act on. Each has a status and a sentence
    with its numbers.

    accuracy: "met" where the drop is within the target with the target's `confidence`, "missed"
    where it is above it
        with as much, or where no set tried reached it; "not proven" otherwise.
    speed: of the plan's file against the float file, in one runtime; "same file" where nothing is
    in INT8.
    action: "use" the file; "prove" the accuracy on more samples; take the "risk" or ask for another
    target, where more samples than anybody has would prove nothing; "bench" it; stay with "float";
    "lower" the file for the runtime that it was slow in; "train" for INT8; "repair" a file whose
    accuracy in the runtime is not what was simulated.
    chance: of the true drop being within the target; None where there is no interval.
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
        """Good only where the file can be used: never for a target that is met by what is not worth
        having."""
        if self.action == "use":
            return "good"
        return "bad" if self.accuracy == "missed" or self.action == "repair" else "open"


@dataclass(frozen=True)
class Plan:
    """A skip-set with its evidence.

    skip: exact unit names, most sensitive first. quantizers: exact names of all quantizers it
    disables.
    floor: the metric that had to be reached on `confirm`. reason: why the target was missed; None
    when met.
    try_next: what else to try when missed. recalibrated: units that stay in INT8 with other ranges
    than they came with.
    notes: what the search noticed, such as a path that is not monotone.
    predicted_ms: by the cost model; None where it measured no times. measured_ms: median latency of
    the exported plan; None until it was measured. Both are of the runtime that the cost or the
    bench was asked for.
    formats: unit -> what the plan runs it in, in words ("INT8", "FP8 E4M3", "INT8 with INT16
    activations"), "float" for those in `skip`; empty in plans of versions before it was told.
    widened: units that have activations of 16 bits.
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

    @property
    def outside(self) -> tuple[str, ...]:
        """Units that do not run in their own format: in float, or with activations of 16 bits."""
        return (*self.skip, *(one.unit for one in self.widened))

    @property
    def names(self) -> tuple[str, ...]:
        """The set as planners name it."""
        return names_of_set(self.skip, [one.unit for one in self.widened])

    def is_of(self, names: Iterable[str]) -> bool:
        """Whether the plan is this set, as planners name it."""
        return set(names) == set(self.names)

    @property
    def wide_ranges(self) -> tuple[Range, ...]:
        """Of all activations that have 16 bits."""
        return tuple(one for unit in self.widened for one in unit.ranges)

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Of all recalibrated units."""
        return tuple(one for unit in self.recalibrated for one in unit.ranges)

    @property
    def every_range(self) -> tuple[Range, ...]:
        """All that the plan gives quantizers in the place of their own."""
        return (*self.ranges, *self.wide_ranges)


@dataclass(frozen=True)
class Border:
    """Two units that exchange a tensor. cost: of converting it, paid where exactly one of them is
    left unquantized.

    b: "" is what is never quantized, such as the model's input.
    """

    a: str
    b: str
    cost: float


@dataclass(frozen=True)
class CostModel:
    """What a model costs to run when a skip-set stays out of INT8.

    kind: how it was had ("macs", "table", "engine"). unit: "ms" for times that were measured;
    "work" is no time, only good for comparing. base: of everything in INT8, without borders. units:
    what leaving each one out adds; below 0 where it is faster in float; with 16 bits it adds
    `WIDE_SHARE` of that, unless its `wide_name` is there. note: why not to trust it;
    "" where nothing speaks against it. error: standard deviation of a skip-set's measured time
    about what this says; 0 where it was not estimated.
    """

    kind: str
    unit: Literal["ms", "work"]
    base: float
    units: dict[str, float]
    borders: tuple[Border, ...] = ()
    note: str = ""
    error: float = 0.0

    def of(self, names: Iterable[str]) -> float:
        """names: as planners name a set."""
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
    """What to compare skip-sets by; without a cost their size. names: as planners name a set."""
    if cost is not None:
        return cost.of(names)
    skip, wide = parts_of_set(names)
    return len(skip) + WIDE_SHARE * len(wide)


def unit_cost(units: Iterable[str]) -> CostModel:
    """The cost of a set where nothing is known of times and work: how many of these units it
    holds."""
    return CostModel("units", "work", 0.0, dict.fromkeys(units, 1.0))


def predicted_ms(names: Collection[str], cost: CostModel | None) -> float | None:
    """The time of the whole engine by this cost. None where the cost is no time, and for sets with
    activations of 16 bits, of which no time was measured. names: as planners name a set."""
    if cost is None or cost.unit != "ms" or parts_of_set(names)[1]:
        return None
    return cost.of(names)


WIDE_SHARE = 128 / 1024
"""Bit operations of a multiplication with 8-bit weights and 16-bit activations, over those of one
in float: what the one costs in place of the other."""

IN_16_BITS = " in 16 bits"
"""Behind a unit's name where planners speak of its activations."""


def wide_name(unit: str) -> str:
    """What planners call a unit with activations of 16 bits; its bare name says that it is left
    out."""
    return unit + IN_16_BITS


def names_of_set(skip: Iterable[str], wide: Iterable[str]) -> tuple[str, ...]:
    """One set for planners: units left out, and units with activations of 16 bits."""
    return (*skip, *map(wide_name, wide))


def parts_of_set(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Units left out, and units with activations of 16 bits.

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
    """A skip-set that was measured whole on `confirm`. drop: float minus this set there, paired.

    holdout, holdout_drop: None where it was not measured there. true_drop: as in `PlanMetric`, but
    without `holdout`, which chooses nothing. predicted_ms and measured_ms as in
    `Plan`, wide as in `PlanStep`.
    """

    skip: tuple[str, ...]
    confirm: Estimate
    drop: Estimate
    holdout: Estimate | None = None
    holdout_drop: Estimate | None = None
    predicted_ms: float | None = None
    measured_ms: float | None = None
    true_drop: Estimate | None = None
    wide: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The set as planners name it."""
        return names_of_set(self.skip, self.wide)

    @property
    def best_drop(self) -> Estimate:
        """The best that is known of the drop."""
        return self.drop if self.true_drop is None else self.true_drop

    @property
    def likely_drop(self) -> float:
        """Its value."""
        return self.best_drop.value


@dataclass(frozen=True)
class Timing:
    """Latency of one file in one runtime, all files of a bench interleaved in the same run.

    ratio: time of the float file over time of this one, with a bootstrap interval; above 1 is
    faster than float.
    same: other variants that are this very file.
    against_fp16: the same with the FP16 file; None where there is none, or the runtime computed it
    in another type.
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
        """All that this file is."""
        return (self.variant, *self.same)


def timing_of(variant: str, timings: Iterable[Timing]) -> Timing | None:
    """The timing of the file that is this variant; None where it was not timed."""
    return next((timing for timing in timings if variant in timing.variants), None)


@dataclass(frozen=True)
class RuntimeAccuracy:
    """The metric of the plan's file in the runtime where it was timed, on `holdout`.

    simulated: what the plan promised on the same samples. drop: float minus the file, paired.
    differs: whether file and promise differ by more than chance. cause: what is known of why; ""
    where nothing is.
    """

    runtime: str
    level: Estimate
    simulated: Estimate
    drop: Estimate
    differs: bool
    cause: str = ""


@dataclass(frozen=True)
class BenchResult:
    """Latencies of a run's files with what they mean in words, the most important sentence first.

    accuracy: variant -> the metric of its file in this runtime, on `holdout`; empty where it was
    not asked for.
    skip: the units that the partial file leaves unquantized. judged: of the plan's file; None where
    it was not measured. in_int8: how many layers of the plan's file ran in INT8, and how many it
    quantizes; None where the runtime does not say. keeps_form: whether the run's files keep
    the form of the file that was given, so that none is written for a runtime.
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
    """A weighted layer of a file: what the plan wants ("int8" or "float"), and what the engine has
    ("int8", "fp32", ...).

    built: None where no layer of the engine names it.
    """

    layer: str
    planned: str
    built: str | None

    @property
    def as_planned(self) -> bool:
        """Whether it is in INT8 exactly where the plan wants it to be."""
        return self.built is not None and (self.built == "int8") == (self.planned == "int8")


@dataclass(frozen=True)
class EngineStructure:
    """The engine that a builder made of one file, which nothing has executed.

    version: of the builder. sm: compute capability that it is for. layers: the weighted ones, in
    the file's order.
    kernels: layers of the engine that write something. requantize_kernels: those that do nothing
    but quantize, dequantize, cast or reorder. activation_bytes: what all kernels write, weights
    apart, for one sample.
    """

    version: str
    sm: int
    layers: tuple[BuiltLayer, ...]
    kernels: int
    requantize_kernels: int
    activation_bytes: int

    @property
    def as_planned(self) -> bool:
        return all(layer.as_planned for layer in self.layers)

    @property
    def kept_plans(self) -> dict[str, tuple[int, int]]:
        """By what is planned, "INT8" or "float": how many layers are as planned, and of how
        many."""
        found = {}
        for planned, words in (("int8", "INT8"), ("float", "float")):
            layers = [layer for layer in self.layers if layer.planned == planned]
            if layers:
                found[words] = sum(layer.as_planned for layer in layers), len(layers)
        return found

    @property
    def sentence(self) -> str:
        """What the builder made, in words: structure, and no time."""
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
    """What has a name: a quantizer, a unit."""

    @property
    def name(self) -> str: ...


def names_of(things: Iterable[Named]) -> list[str]:
    """Their names, in their order."""
    return [thing.name for thing in things]
