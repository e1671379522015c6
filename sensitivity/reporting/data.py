"""The contents of a report: one frozen record, whatever part of the job has been done so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sensitivity.records import (
    Distribution,
    Distributions,
    Effect,
    EngineStructure,
    Estimate,
    FrontierPoint,
    Mode,
    ModelGraph,
    Plan,
    Quantizer,
    Range,
    Recalibrated,
    RuntimeAccuracy,
    Timing,
    Unit,
)
from sensitivity.reporting.number_formats import USUAL
from sensitivity.tasks.detection_detail import DetectionDetail

BASELINES = {
    "float": "Float",
    "quantized": "INT8 as calibrated",
    "weights only": "Only weights in INT8",
    "activations only": "Only activations in INT8",
}
"""Keys of `ReportData.baselines` in the order shown, each with its words."""

NOT_EXPORTABLE = "The model cannot be exported: "
"""Beginning of the warning that no ONNX file of the model can be written."""


def can_be_exported(warnings: Iterable[str]) -> bool:
    """Return whether none of the warnings of a run says that no ONNX file can be written."""
    return not any(warning.startswith(NOT_EXPORTABLE) for warning in warnings)


@dataclass(frozen=True)
class Choice:
    """A set that a search measured, and how to choose it.

    work: its cost by a cost model without times; None otherwise.
    command: command line that makes this set the plan at once; "" if no target does.
    allowed: the drop from float that this command allows, in the metric's unit; None without a
        command.
    """

    point: FrontierPoint
    work: float | None = None
    command: str = ""
    allowed: float | None = None


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows. What is empty or None is left out of the report.

    metric: its name, such as "top-1".
    full_scale: the metric's largest value; a point is a hundredth of it.
    command: command line that makes these numbers again; several are on lines of their own.
    settings, environment: shown as they are.
    baselines: by the keys of `BASELINES`, all on the `rank` split.
    effects: one for each unit measured so far.
    units: all units of the model, with their quantizers.
    bench_sentences: the latency verdict in words, the most important first.
    verification: what the check of the exported files found.
    warnings: what a reader must know before believing a number.
    scales: quantizers that share one range.
    sharing: drop that the shared ranges cause with everything in INT8; None if no range changed.
    confidence: coverage of all intervals.
    choices: all skip-sets that the plan's search measured whole, the cheapest first.
    directory: of the run, as a command line names it.
    name: of the plan; None for that in plan.json.
    detection: what the plan changes for a detector, class by class and in pictures.
    format: what the model is quantized to. Every sentence is written with INT8, which this
        replaces.
    engines: file -> the engine that TensorRT-RTX built of it, which nothing executed.
    not_built: file -> why no engine was built.
    graph: which layers pass tensors to each other; None if that is unknown.
    quantizers: of the model, with their formats.
    distributions: those of the quantizers' inputs on calibration data; None if they were not kept.
    judged: accuracy of the plan's file in the runtime; None if it was not measured there.
    resume_command: command line that continues the scan, and finds the graph if it can.
    lowers: whether files of the model can be written for runtimes, by 'sensitivity export --for'.
    """

    title: str
    metric: str
    full_scale: float
    mode: Mode
    command: str
    settings: Mapping[str, str] = field(default_factory=dict)
    baselines: Mapping[str, Estimate] = field(default_factory=dict)
    effects: tuple[Effect, ...] = ()
    units: tuple[Unit, ...] = ()
    plan: Plan | None = None
    timings: tuple[Timing, ...] = ()
    bench_sentences: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    verification: Mapping[str, str | float] | None = None
    warnings: tuple[str, ...] = ()
    scales: tuple[tuple[str, ...], ...] = ()
    sharing: Estimate | None = None
    confidence: float = 0.95
    choices: tuple[Choice, ...] = ()
    directory: str = "."
    ranges: tuple[Recalibrated, ...] = ()
    name: str | None = None
    detection: DetectionDetail | None = None
    format: str = USUAL
    engines: Mapping[str, EngineStructure] = field(default_factory=dict)
    not_built: Mapping[str, str] = field(default_factory=dict)
    graph: ModelGraph | None = None
    quantizers: tuple[Quantizer, ...] = ()
    distributions: Distributions | None = None
    judged: RuntimeAccuracy | None = None
    resume_command: str = "sensitivity scan TASK --out DIRECTORY --resume"
    lowers: bool = True

    @property
    def plan_file(self) -> str:
        """The file of the plan, relative to `directory`."""
        if self.name is None:
            return "plan.json"
        return f"plans/{self.name}.json"

    @property
    def skip(self) -> tuple[str, ...]:
        """The units that the plan leaves out; empty without a plan."""
        if self.plan is None:
            return ()
        return self.plan.skip

    @property
    def own_choice(self) -> Choice | None:
        """The plan's own set among `choices`; None without a plan, or if it is not among them."""
        if self.plan is None:
            return None
        for choice in self.choices:
            if self.plan.is_of(choice.point.names):
                return choice
        return None

    @property
    def quantizer_inputs(self) -> tuple[Distribution, ...]:
        """Distributions of the quantizers' inputs on calibration data; empty if they were not
        kept."""
        if self.distributions is None:
            return ()
        return self.distributions.quantizers

    def repaired(self, unit: str) -> tuple[tuple[Range, Range], ...]:
        """Return the old and the new range of each quantizer of a unit; empty if none was found."""
        for tried in self.ranges:
            if tried.unit == unit:
                return tried.pairs
        return ()

    @property
    def whole_choice(self) -> Choice | None:
        """Everything in INT8, repaired as in the plan, among `choices`; None if it is not among
        them."""
        for choice in self.choices:
            if not choice.point.names:
                return choice
        return None

    @property
    def layers(self) -> int:
        """Number of units in the model, or of measured units if no others are known."""
        return len(self.units) or len(self.effects)
