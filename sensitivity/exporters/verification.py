"""What was checked of exported files, as records that are kept with the run."""

from __future__ import annotations

from dataclasses import dataclass, field

from sensitivity.records import EngineStructure, Plan

LAYER_TOLERANCE = 1e-5
"""Largest difference of one layer's output, relative to the largest output, when file and model get
the same input."""

OUTPUT_TOLERANCE = 0.05
"""Largest difference of the file's outputs from the model's, as a part of what quantization changes
(both RMS)."""

FLOOR_TOLERANCE = 2.0
"""The same, as a multiple of how far the simulated model is from itself when its sums are rounded
otherwise: flips of single values at rounding boundaries add up in deep models, whatever computes
them."""

FLOOR_DRAWS = 6
"""How many times the model is run so, at most; the largest difference counts. On few samples it is
chance whether a value flips early: of 12 draws on 8 images of ResNet-20, four changed nothing and
the largest 23 % of what quantization changes. On more the draws agree (YOLOv8n: 30 to 32 %), and
the first one mostly settles it."""

FLOAT_TOLERANCE = 1e-4
"""Where quantization changes next to nothing: largest difference of outputs, relative to the
model's (both RMS)."""

METRIC_TOLERANCE = 0.003
"""Largest difference of the metric that is not chance, as a part of its full scale: 0.3 points."""

METRIC_ALPHA = 0.001
"""How often chance alone may refuse a file. A run checks several, and at 0.05 one right file in
twenty would be refused; that each quantized layer computes what it should is checked apart, to
1e-5."""


@dataclass(frozen=True)
class LayerCheck:
    """One quantized layer of the file, alone, against the model's own module on the same input.

    difference: largest, relative to the largest output; None where the layer could not be cut out
    of the graph.
    moved: part of the input's values that were moved off a rounding boundary first, where either
    side may round differently.
    """

    layer: str
    difference: float | None
    moved: float


@dataclass(frozen=True)
class MetricCheck:
    """The metric on the same n samples: of the simulated model, and of the file in ONNX Runtime."""

    simulated: float
    file: float
    n: int


@dataclass(frozen=True)
class FileCheck:
    """One exported file against the simulated model. Each rms is of a difference of outputs,
    relative to the float model's outputs.

    quantizers: how many the file holds. rms: file and simulated model. quantization_rms: float and
    simulated model, what quantization itself changes. floor_rms: the simulated model and itself
    with other rounding of sums, the largest of the draws that were needed; None where rms was
    within the bounds without them. metric: None where none was asked for.
    """

    variant: str
    quantizers: int
    rms: float
    quantization_rms: float
    floor_rms: float | None
    layers: tuple[LayerCheck, ...]
    metric: MetricCheck | None


@dataclass(frozen=True)
class LoweringCheck:
    """A lowered file against the canonical one, in ONNX Runtime. Each rms is relative to the float
    file's outputs.

    rms: lowered and canonical. quantization_rms: float and canonical, what quantization itself
    changes.
    metric: simulated is the canonical file's, file the lowered one's; None where none was asked
    for.
    """

    target: str
    rms: float
    quantization_rms: float
    metric: MetricCheck | None


@dataclass(frozen=True)
class Verification:
    """Every exported file, checked. unreached: quantizers that the example batch never reaches;
    they are in no file.

    samples: in the batch that outputs were compared on. lowered: name of each lowered file -> what
    its check found.
    left_out: name of each file that could not be made -> why. skip: the units that the partial file
    leaves unquantized.
    ranges: keys of those that the plan gave quantizers in the place of their own. finished: name of
    each file that the task made of a verified one -> what holds for it. engines: name of each file
    that TensorRT-RTX built -> the engine.
    not_built: name of each that it should have built -> why it did not.
    """

    files: tuple[FileCheck, ...]
    unreached: tuple[str, ...]
    samples: int
    lowered: dict[str, LoweringCheck] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    ranges: tuple[str, ...] = ()
    finished: dict[str, str] = field(default_factory=dict)
    engines: dict[str, EngineStructure] = field(default_factory=dict)
    not_built: dict[str, str] = field(default_factory=dict)

    def is_of(self, plan: Plan) -> bool:
        """Whether the files are what this plan asks for."""
        return self.skip == plan.skip and self.ranges == tuple(one.key for one in plan.every_range)
