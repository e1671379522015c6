"""Results of checking exported files, as records that are stored with the run."""

from __future__ import annotations

from dataclasses import dataclass, field

from sensitivity.records import EngineStructure, Plan

LAYER_TOLERANCE = 1e-5
"""Largest difference of one layer's output, relative to its largest value, if file and model get
the same input."""

OUTPUT_TOLERANCE = 0.05
"""Largest difference of the file's outputs from the model's, as a fraction of what quantization
changes (both RMS)."""

FLOOR_TOLERANCE = 2.0
"""Largest difference of the file's outputs from the model's, as a multiple of the rounding floor.
The floor is the difference of the simulated model from itself when its sums are rounded
differently. In deep models, flips of single values at rounding boundaries add up, whatever computes
them."""

FLOOR_DRAWS = 6
"""Largest number of draws for the rounding floor, of which the largest difference counts. On few
samples it is chance whether a value flips early: of 12 draws on 8 images of ResNet-20, four changed
nothing and the largest changed 23 % of what quantization changes. On more samples the draws agree
(YOLOv8n: 30 to 32 %), and the first one mostly settles it."""

FLOAT_TOLERANCE = 1e-4
"""Largest difference of the outputs, relative to the model's (both RMS), if quantization changes
next to nothing."""

METRIC_TOLERANCE = 0.003
"""Largest difference of the metric that is accepted even if it is not chance, as a fraction of the
full scale: 0.3 points."""

METRIC_ALPHA = 0.001
"""Probability that chance alone refuses a correct file. A run checks several files, and at 0.05 one
correct file in twenty would be refused. That each quantized layer computes what it should is
checked separately, to 1e-5."""


@dataclass(frozen=True)
class LayerCheck:
    """One quantized layer of the file, alone, against the model's own module on the same input.

    difference: largest difference relative to the largest output; None if the layer could not be
        cut out of the graph, or holds another quantized layer.
    moved: fraction of the input's values that were first moved off a rounding boundary, where file
        and model may round differently.
    """

    layer: str
    difference: float | None
    moved: float


@dataclass(frozen=True)
class MetricCheck:
    """The metric of the simulated model and of the file in ONNX Runtime, on the same n samples."""

    simulated: float
    file: float
    n: int


@dataclass(frozen=True)
class FileCheck:
    """One exported file against the simulated model. Each rms is relative to the outputs of the
    float model.

    quantizers: number of quantizers in the file.
    rms: difference of file and simulated model.
    quantization_rms: difference of float and simulated model, which quantization itself causes.
    floor_rms: difference of the simulated model from itself with other rounding of sums, the
        largest of the draws that were needed; None if rms was within the bounds without them.
    metric: None if it was not asked for.
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
    """A lowered file against the canonical one, in ONNX Runtime. Each rms is relative to the
    outputs of the float file.

    rms: difference of lowered and canonical file.
    quantization_rms: difference of float and canonical file, which quantization itself causes.
    metric: `simulated` is the canonical file's, `file` the lowered one's; None if it was not asked
        for.
    """

    target: str
    rms: float
    quantization_rms: float
    metric: MetricCheck | None


@dataclass(frozen=True)
class Verification:
    """The checks of all exported files.

    unreached: quantizers that the example batch never reaches; they are in no file.
    samples: number of samples in the batch that outputs were compared on.
    lowered: lowered file -> its check.
    skip: units that the partial file leaves unquantized.
    left_out: file that could not be made -> why.
    ranges: keys of the plan's ranges that replace those of quantizers.
    finished: file that the task made of a verified one -> what was found about it.
    engines: file that TensorRT-RTX built -> the engine.
    not_built: file that TensorRT-RTX should have built -> why it did not.
    sizes: input of an ONNX source -> shape of one sample, which gives the sides that the files
        leave open.
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
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def is_of(self, plan: Plan) -> bool:
        """Return whether the files belong to this plan."""
        return self.skip == plan.skip and self.ranges == tuple(
            new_range.key for new_range in plan.every_range
        )
