"""A plan: its target, the search for it, its accuracy, and its verdict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from sensitivity.records.measurements import Estimate, SpeedRatio, TrueDrop
from sensitivity.records.model import Range
from sensitivity.records.skip_sets import names_of_set

AccuracyStatus = Literal["met", "not proven", "missed"]
SpeedStatus = Literal[SpeedRatio, "same file", "not measured"]
Action = Literal["use", "prove", "risk", "bench", "float", "lower", "train", "repair"]
Tone = Literal["good", "open", "bad"]


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
    fp8: units that were in FP8.
    """

    skip: tuple[str, ...]
    metric: float
    met: bool
    n: int
    wide: tuple[str, ...] = ()
    fp8: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The set in the notation of planners, see `names_of_set`."""
        return names_of_set(self.skip, self.wide, self.fp8)


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
class InFp8:
    """A unit whose weights and activations are in FP8 E4M3.

    ranges: FP8 ranges of all its quantizers: one for each activation, and one for each output
        channel of its weights.
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
    confirm_drop: float minus plan on `confirm`. If the counted drops of more than one set chose
        the plan, it is corrected for having been chosen there (`stats.selection`). None if the plan
        was not measured on all of it.
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
    def chosen_by_count(self) -> bool:
        """Whether the drops counted on `confirm` chose the plan. Otherwise true drops did, or it is
        float itself."""
        return self.true_drop is None and not self.is_float

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
    in_fp8: units in FP8 that the model had in INT8.
    raised: units that the plan has in INT8, and that have a layer which runs in 16 bits because of
        what it writes, on a target whose operations read and write one type.
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
    in_fp8: tuple[InFp8, ...] = ()
    raised: tuple[str, ...] = ()

    @property
    def wide(self) -> tuple[str, ...]:
        """Units that have activations of 16 bits, as `PlanStep` names them."""
        return tuple(widened.unit for widened in self.widened)

    @property
    def fp8(self) -> tuple[str, ...]:
        """Units in FP8 that the model had in INT8, as `PlanStep` names them."""
        return tuple(unit.unit for unit in self.in_fp8)

    @property
    def outside(self) -> tuple[str, ...]:
        """Units that do not run in their own format: those in float, with 16-bit activations, or in
        FP8."""
        return (*self.skip, *self.wide, *self.fp8)

    @property
    def names(self) -> tuple[str, ...]:
        """The set in the notation of planners, see `names_of_set`."""
        return names_of_set(self.skip, self.wide, self.fp8)

    def is_of(self, names: Iterable[str]) -> bool:
        """Return whether the plan is this set, given in the notation of planners."""
        return set(names) == set(self.names)

    @property
    def format_ranges(self) -> tuple[Range, ...]:
        """Ranges of all units in another format than their own: those with 16-bit activations and
        those in FP8."""
        wide = (wide_range for unit in self.widened for wide_range in unit.ranges)
        fp8 = (fp8_range for unit in self.in_fp8 for fp8_range in unit.ranges)
        return (*wide, *fp8)

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Ranges of all recalibrated units."""
        return tuple(new_range for unit in self.recalibrated for new_range in unit.ranges)

    @property
    def every_range(self) -> tuple[Range, ...]:
        """All ranges of the plan that replace those of its quantizers."""
        return (*self.ranges, *self.format_ranges)


@dataclass(frozen=True)
class FrontierPoint:
    """A skip-set that was measured on all of `confirm`.

    confirm: its metric.
    drop: float minus this set on `confirm`, paired.
    holdout, holdout_drop: the same on `holdout`; None if it was not measured there.
    predicted_ms, measured_ms: as in `Plan`.
    true_drop: as in `PlanMetric`, but without `holdout`, which chooses nothing.
    wide, fp8: as in `PlanStep`.
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
    fp8: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The set in the notation of planners, see `names_of_set`."""
        return names_of_set(self.skip, self.wide, self.fp8)

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
