"""Verifies that an exported file has the planned quantizers and computes what was measured."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from sensitivity import optional
from sensitivity.errors import ExportError
from sensitivity.exporters.agreement import Outputs, relative_rms
from sensitivity.exporters.evaluate import check_metric, named_arrays, run
from sensitivity.exporters.example import Example
from sensitivity.exporters.simulate import (
    chunks,
    jittered_outputs,
    outputs_of,
    reached_quantizers,
)
from sensitivity.exporters.torch_model import disabled_by_variant, in_variant
from sensitivity.exporters.verification import (
    FLOAT_TOLERANCE,
    FLOOR_DRAWS,
    FLOOR_TOLERANCE,
    OUTPUT_TOLERANCE,
    FileCheck,
    LayerCheck,
    Verification,
)
from sensitivity.exporters.verify_layers import check_layers
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.digest import digest
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.passes.quantize_once import merged_quantizers
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.records import Range, Unit, names_of
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.tasks.batches import as_numpy
from sensitivity.tasks.scoring import Scoring


@dataclass(frozen=True, eq=False)
class Simulated:
    """What a file is compared with: one variant of the user's model, run on one batch.

    disabled: quantizers that are off in the variant.
    outputs: outputs of the variant.
    unquantized: outputs of the float model, the reference of all relative differences.
    example: the same batch, as files take it.
    """

    source: QuantizedModel
    inputs: Any
    disabled: Collection[str]
    outputs: Outputs
    unquantized: Outputs
    example: Example

    def again(self, inputs: Any) -> Any:
        """Return the variant's outputs for other inputs."""
        return outputs_of(self.source, inputs, self.disabled)

    def difference(self, outputs: Outputs) -> float:
        """Return how far these outputs are from the variant's, see `relative_rms`."""
        return relative_rms(outputs, self.outputs, self.unquantized)


def verify(
    source: QuantizedModel,
    files: Mapping[str, Path],
    example_inputs: Any,
    units: Sequence[Unit],
    skip: Sequence[str],
    *,
    scoring: Scoring | None = None,
    formats: Collection[Range] = (),
    example: Example | None = None,
) -> Verification:
    """Check the files that `export_files` wrote with the same arguments.

    example: keeps the outputs of the files for further checks on `example_inputs`; None if there
        are none.

    Kept layers must hold exactly their quantizers and skipped ones none. Scales must be finite and
    positive. Each quantized layer alone, and the whole file, must agree with the simulated model
    within the bounds of `verification`. With `scoring`, the metric of the quantized files must
    agree too. Raises ExportError with the file, the layer and the numbers.
    """
    disabled = disabled_by_variant(source, units, skip)
    example = example or Example(named_arrays(example_inputs))
    reference, reached = {}, set[str]()
    for variant in dict.fromkeys(("float", *files)):
        with in_variant(source, variant, formats), reached_quantizers(source) as now_reached:
            reference[variant] = flat(outputs_of(source, example_inputs, disabled[variant]))
        reached |= now_reached
    digests = {variant: digest(file) for variant, file in files.items()}
    if scoring is not None and digests.get("int8") == digests.get("partial"):
        scoring = replace(scoring, of_int8=True)
    checks = list[FileCheck]()
    for variant, file in files.items():
        simulated = Simulated(
            source,
            example_inputs,
            disabled[variant],
            reference[variant],
            reference["float"],
            example,
        )
        twin = next((c for c in checks if digests[c.variant] == digests[variant]), None)
        with in_variant(source, variant, formats):
            model = load_model(file)
            qdq.check_scales(model, file.name)
            kept = reached - disabled[variant]
            check_placement(model, file.name, source, kept)
            if twin is not None:  # e.g. a plan that leaves nothing out
                checks.append(replace(twin, variant=variant))
                continue
            compared = _compared(file, variant, model, simulated, scoring)
            checks.append(replace(compared, quantizers=len(kept)))
    names = names_of(source.quantizers)
    unreached = tuple(name for name in names if name not in reached)
    return Verification(tuple(checks), unreached, len(reference["float"][0]))


def _compared(
    file: Path, variant: str, model: ir.Model, simulated: Simulated, scoring: Scoring | None
) -> FileCheck:
    """Return how far one file is from the simulated model, with the number of quantizers still
    0."""
    disabled = simulated.disabled
    layers = check_layers(simulated.source, model, simulated.inputs, disabled, file.name)
    rms, own, floor = check_outputs(file, simulated, noise_of(layers))
    metric = None
    scoring = scoring and scoring.of(variant)
    if scoring is not None and variant != "float":
        metric = check_metric(file, variant, simulated.again, scoring)
    return FileCheck(variant, 0, rms, own, floor, layers, metric)


def check_placement(
    model: ir.Model, name: str, source: QuantizedModel, kept: Collection[str]
) -> None:
    """Raise ExportError unless the file holds a pair for each kept quantizer, and no other.

    A pair is identified by its name, and by what it feeds if the layer's operation is in the graph.
    """
    present = {pair.name.partition("/")[0] for pair in qdq.pairs(model.graph)}
    present |= merged_quantizers(model)
    problems = [f"{quantizer} is missing" for quantizer in sorted(set(kept) - present)]
    problems += [f"{quantizer} should not be there" for quantizer in sorted(present - set(kept))]
    roles: dict[str, set[str]] = {quantizer.layer: set() for quantizer in source.quantizers}
    for quantizer in source.quantizers:
        if quantizer.name in kept:
            roles[quantizer.layer].add(quantizer.role)
    for node in model.graph.all_nodes():
        if node.name in roles:
            problems += _misplaced(node, roles[node.name])
    if problems:
        raise ExportError(
            f"Expected {name} to hold Q/DQ pairs for exactly {len(kept)} quantizers, got "
            f"{len(problems)} differences: {'; '.join(problems[:5])}; this is a fault of the "
            "export: please report it."
        )


def _misplaced(node: ir.Node, roles: Collection[str]) -> list[str]:
    """Return what is wrong with the pairs on the inputs of a layer's operation, given the roles of
    its kept quantizers."""
    weight = qdq.weight(node)
    others = [value for value in node.inputs if value is not weight]
    quantized_roles = set()
    if qdq.through_transpose(weight) is not None:
        quantized_roles.add("weight")
    if any(qdq.pair_of(value) is not None for value in others):
        quantized_roles.add("input")
    wrong = quantized_roles ^ (set(roles) - {"output"})
    return [
        f"layer {node.name} {'has' if role in quantized_roles else 'lacks'} Q/DQ on its {role}"
        for role in sorted(wrong)
    ]


def flat(outputs: Any) -> list[np.ndarray]:
    """Return all tensors of a nest of outputs, in order, as arrays."""
    return [as_numpy(tensor) for tensor in optional.pytree.tree_leaves(outputs)]


def noise_of(layers: Iterable[LayerCheck]) -> float:
    """Return the largest difference between file and model on a single layer, relative to its
    largest output.

    Values near a rounding boundary are excluded, so this is the difference of the sums themselves.
    """
    return max((layer.difference for layer in layers if layer.difference is not None), default=0.0)


def check_outputs(
    file: Path, simulated: Simulated, noise: float
) -> tuple[float, float, float | None]:
    """Check the outputs of a file.

    Returns the relative RMS of file and simulated model, that of float and simulated model, and the
    rounding floor if it was needed.

    noise: as returned by `noise_of`.
    Raises ExportError beyond the bounds.
    """
    outputs = simulated.example.outputs(file)
    shapes = [output.shape for output in outputs]
    expected = [output.shape for output in simulated.outputs]
    if shapes != expected:
        raise ExportError(
            f"Expected {file.name} to give outputs of shapes {expected}, got {shapes}; the model "
            "must be traceable, with a free batch axis."
        )
    rms, own = simulated.difference(outputs), simulated.difference(simulated.unquantized)
    limit, floor = max(OUTPUT_TOLERANCE * own, FLOAT_TOLERANCE), None
    if not rms <= limit:  # also true for NaN
        rms = min(rms, _sample_by_sample(file, simulated))
    if not rms <= limit:
        floor = rounding_floor(simulated, noise=noise, enough=rms / FLOOR_TOLERANCE)
        limit = max(limit, FLOOR_TOLERANCE * floor)
    if not rms <= limit:
        raise ExportError(
            f"Expected outputs of {file.name} to differ from the simulated model's by at most "
            f"{limit:.2g} (relative RMS), got {rms:.2g}, where quantization itself changes "
            f"{own:.2g} and rounding of sums {floor:.2g}; the model may hold operations that do "
            "not export faithfully."
        )
    return rms, own, floor


def _sample_by_sample(file: Path, simulated: Simulated) -> float:
    """Return the difference with the file run on one sample at a time.

    ONNX Runtime then takes sums in another order, which is equally valid, and a single flipped
    value in an early layer may have caused the whole difference.
    """
    samples = chunks([simulated.inputs], 1, len(simulated.outputs[0]))
    with OnnxRuntime(optimize=False).build(file) as engine:
        parts = [list(run(engine, sample).values()) for sample in samples]
    return simulated.difference([np.concatenate(rows) for rows in zip(*parts, strict=True)])


def rounding_floor(simulated: Simulated, *, noise: float, enough: float) -> float:
    """Return how far the simulated model gets from itself if its sums are rounded differently, the
    largest of a few draws.

    noise: largest observed difference of a layer's sums, relative to the largest sum.
    enough: no more draws are made once one reaches this value.
    """
    floor = 0.0
    for number in range(FLOOR_DRAWS):
        outputs = jittered_outputs(
            simulated.source, simulated.inputs, simulated.disabled, number, noise
        )
        floor = max(floor, simulated.difference(flat(outputs)))
        if floor >= enough:
            break
    return floor
