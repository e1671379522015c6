"""Is an exported file what was planned, and does it compute what was measured?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from sensitivity.errors import ExportError
from sensitivity.exporters.evaluate import evaluate_file, run
from sensitivity.exporters.torch_model import disabled_by_variant
from sensitivity.exporters.verification import (
    FLOAT_TOLERANCE,
    FLOOR_DRAWS,
    FLOOR_TOLERANCE,
    METRIC_ALPHA,
    METRIC_TOLERANCE,
    OUTPUT_TOLERANCE,
    FileCheck,
    LayerCheck,
    MetricCheck,
    Verification,
)
from sensitivity.exporters.verify_layers import check_layers
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.passes.quantize_once import merged_quantizers
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.records import Scores, Unit
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.stats.jackknife import pseudo_values
from sensitivity.stats.paired import differs
from sensitivity.tasks.base import mean
from sensitivity.tasks.batches import as_numpy, scores_of

Outputs = Sequence[np.ndarray]


def verify(
    source: QuantizedModel,
    files: Mapping[str, Path],
    example_inputs: Any,
    units: Sequence[Unit],
    skip: Sequence[str],
    *,
    batches: Iterable[tuple[Any, Any]] | None = None,
    score: Callable[[Any, Any], ArrayLike] | None = None,
    aggregate: Callable[[Scores], float] = mean,
    full_scale: float = 1.0,
) -> Verification:
    """Check the files that `export_files` wrote with the same arguments.

    Kept layers hold exactly their quantizers and skipped ones none; scales are finite and positive;
    each quantized layer alone, and the whole file, agree with the simulated model within the bounds
    of `verification`; with `batches` and `score` (as in a task; full_scale: of its metric), the
    metric of the quantized files does too. Raises ExportError that names the file, the layer and
    the numbers.
    """
    from sensitivity.exporters.simulate import outputs_of, quantized_weights

    disabled = disabled_by_variant(source, units, skip)
    _, reached = quantized_weights(source, example_inputs)
    reference = {
        variant: flat(outputs_of(source, example_inputs, disabled[variant]))
        for variant in ("float", *files)
    }
    checks = []
    for variant, file in files.items():
        model = load_model(file)
        qdq.check_scales(model, file.name)
        check_placement(model, file.name, source, reached - disabled[variant])
        layers = check_layers(source, model, example_inputs, disabled[variant], file.name)
        rms, own, floor = check_outputs(
            source,
            file,
            example_inputs,
            disabled[variant],
            reference[variant],
            reference["float"],
            noise_of(layers),
        )
        metric = None
        if batches is not None and score is not None and variant != "float":
            metric = check_metric(
                source, file, disabled[variant], batches, score, aggregate, full_scale
            )
        checks.append(
            FileCheck(variant, len(reached - disabled[variant]), rms, own, floor, layers, metric)
        )
    unreached = tuple(
        quantizer.name for quantizer in source.quantizers if quantizer.name not in reached
    )
    return Verification(tuple(checks), unreached, len(reference["float"][0]))


def check_placement(
    model: ir.Model, name: str, source: QuantizedModel, kept: Collection[str]
) -> None:
    """Raise ExportError unless the file holds a pair for each kept quantizer, and no other.

    Judged by what each pair feeds where the layer's operation is in the graph, and by the pairs'
    names everywhere.
    """
    found = {pair.name.partition("/")[0] for pair in qdq.pairs(model.graph)} | merged_quantizers(
        model
    )
    problems = [f"{quantizer} is missing" for quantizer in sorted(set(kept) - found)]
    problems += [f"{quantizer} should not be there" for quantizer in sorted(found - set(kept))]
    nodes = {node.name: node for node in model.graph.all_nodes()}
    for layer in {quantizer.layer for quantizer in source.quantizers} & nodes.keys():
        expected = {
            quantizer.role
            for quantizer in source.quantizers
            if quantizer.layer == layer and quantizer.name in kept
        }
        problems += _misplaced(nodes[layer], expected)
    if problems:
        raise ExportError(
            f"Expected {name} to hold Q/DQ pairs for exactly {len(kept)} quantizers, got "
            f"{len(problems)} differences: {'; '.join(problems[:5])}; this is a fault of the "
            "export: please report it."
        )


def _misplaced(node: ir.Node, roles: Collection[str]) -> list[str]:
    """What is wrong with the pairs on the inputs of a layer's operation, given the roles of its
    kept quantizers."""
    value = qdq.weight(node)
    found = {"weight"} if value is not None and qdq.through_transpose(value) is not None else set()
    if any(qdq.pair_of(given) is not None for given in node.inputs if given is not value):
        found.add("input")
    wrong = found ^ (set(roles) - {"output"})
    return [
        f"layer {node.name} {'has' if role in found else 'lacks'} Q/DQ on its {role}"
        for role in sorted(wrong)
    ]


def flat(outputs: Any) -> list[np.ndarray]:
    """All tensors of a nest of outputs, in order, as arrays."""
    from torch.utils import _pytree as pytree

    return [as_numpy(tensor) for tensor in pytree.tree_leaves(outputs)]


def noise_of(layers: Iterable[LayerCheck]) -> float:
    """How far file and model are apart on one layer where nothing is rounded to a grid, relative to
    its largest output."""
    return max((layer.difference for layer in layers if layer.difference is not None), default=0.0)


def check_outputs(
    source: QuantizedModel,
    file: Path,
    inputs: Any,
    disabled: Collection[str],
    reference: Outputs,
    unquantized: Outputs,
    noise: float,
) -> tuple[float, float, float | None]:
    """Relative RMS of file and simulated model, of float and simulated model, and the floor where
    it was needed.

    reference, unquantized: outputs of the simulated and of the float model. noise: as `noise_of`
    says. Raises ExportError beyond the bounds.
    """
    with OnnxRuntime(optimize=False).build(file) as engine:
        outputs = list(run(engine, inputs).values())
    shapes, expected = [output.shape for output in outputs], [output.shape for output in reference]
    if shapes != expected:
        raise ExportError(
            f"Expected {file.name} to give outputs of shapes {expected}, got {shapes}; the model "
            "must be traceable, with a free batch axis."
        )
    rms, own = (
        relative_rms(outputs, reference, unquantized),
        relative_rms(unquantized, reference, unquantized),
    )
    limit, floor = max(OUTPUT_TOLERANCE * own, FLOAT_TOLERANCE), None
    if not rms <= limit:  # also where it is not a number
        rms = min(rms, _sample_by_sample(file, inputs, reference, unquantized))
    if not rms <= limit:
        floor = rounding_floor(
            source,
            inputs,
            disabled,
            reference,
            unquantized,
            noise=noise,
            enough=rms / FLOOR_TOLERANCE,
        )
        limit = max(limit, FLOOR_TOLERANCE * floor)
    if not rms <= limit:
        raise ExportError(
            f"Expected outputs of {file.name} to differ from the simulated model's by at most "
            f"{limit:.2g} (relative RMS), got {rms:.2g}, where quantization itself changes "
            f"{own:.2g} and rounding of sums {floor:.2g}; the model may hold operations that do "
            "not export faithfully."
        )
    return rms, own, floor


def _sample_by_sample(file: Path, inputs: Any, reference: Outputs, unquantized: Outputs) -> float:
    """The same difference with the file run on one sample at a time: ONNX Runtime then takes sums
    in another order, which is as right, and a flip of one value in an early layer may be all that
    kept the two apart."""
    from sensitivity.exporters.simulate import chunks

    with OnnxRuntime(optimize=False).build(file) as engine:
        parts = [list(run(engine, one).values()) for one in chunks([inputs], 1, len(reference[0]))]
    return relative_rms(
        [np.concatenate(some) for some in zip(*parts, strict=True)], reference, unquantized
    )


def rounding_floor(
    source: QuantizedModel,
    inputs: Any,
    disabled: Collection[str],
    reference: Outputs,
    unquantized: Outputs,
    *,
    noise: float,
    enough: float,
) -> float:
    """How far the simulated model gets from itself when its sums are rounded otherwise: the largest
    of a few draws.

    noise: how much the sums of a layer were seen to differ, relative to the largest. No more are
    drawn once one reaches `enough`. reference, unquantized: as in `check_outputs`.
    """
    from sensitivity.exporters.simulate import jittered_outputs

    floor = 0.0
    for seed in range(FLOOR_DRAWS):
        outputs = flat(jittered_outputs(source, inputs, disabled, seed, noise))
        floor = max(floor, relative_rms(outputs, reference, unquantized))
        if floor >= enough:
            break
    return floor


def relative_rms(outputs: Outputs, others: Outputs, unit: Outputs) -> float:
    """RMS of outputs minus others over RMS of unit, each output counting the same whatever its
    scale and size."""
    parts = []
    for output, other, reference in zip(outputs, others, unit, strict=True):
        power = float(np.mean(np.square(reference, dtype=np.float64)))
        error = float(np.mean(np.square(output.astype(np.float64) - other)))
        parts.append(error / power if power else float(error > 0))
    return float(np.sqrt(np.mean(parts)))


def check_metric(
    source: QuantizedModel,
    file: Path,
    disabled: Collection[str],
    batches: Iterable[tuple[Any, Any]],
    score: Callable[[Any, Any], ArrayLike],
    aggregate: Callable[[Scores], float],
    full_scale: float,
) -> MetricCheck:
    """The metric of file and simulated model on the same batches.

    Raises ExportError where they differ by more than 0.3 points and more than by chance: rounding
    flips turn single samples right and wrong, which on few samples is more than 0.3 points.
    """
    from sensitivity.exporters.simulate import outputs_of

    simulated = np.concatenate(
        [
            scores_of(score(outputs_of(source, inputs, disabled), targets))
            for inputs, targets in batches
        ]
    )
    _, scores = evaluate_file(file, batches, score, aggregate)
    return agreed(file.name, "the simulated model", simulated, scores, aggregate, full_scale)


def agreed(
    file: str,
    reference: str,
    expected: Scores,
    scores: Scores,
    aggregate: Callable[[Scores], float],
    full_scale: float,
) -> MetricCheck:
    """Compare the metric of two sets of scores of the same samples, as `check_metric` does. file,
    reference: names."""
    check = MetricCheck(float(aggregate(expected)), float(aggregate(scores)), len(scores))
    limit = METRIC_TOLERANCE * full_scale
    apart = not abs(check.file - check.simulated) <= limit
    if apart and (len(scores) < 2 or _differ(expected, scores, aggregate)):
        raise ExportError(
            f"Expected the metric of {file} in ONNX Runtime within {limit:.4g} of "
            f"{check.simulated:.4g}, that of {reference}, got {check.file:.4g} on {check.n} "
            "samples; check that the metric depends on the outputs only."
        )
    return check


def _differ(expected: Scores, scores: Scores, aggregate: Callable[[Scores], float]) -> bool:
    return differs(
        pseudo_values(expected, aggregate), pseudo_values(scores, aggregate), alpha=METRIC_ALPHA
    )
