"""Cuts the float, INT8 and partial files of a Q/DQ ONNX source out of its file, and verifies them.

The INT8 file is the user's, byte for byte, unless the plan has other ranges. The other two are the
same graph without the skipped uses of pairs and with the current grids. Everything else in them
(operations, names, order, opset, metadata) is unchanged. Only scales per channel raise an opset
that lacks them. Scales per channel before depthwise convolutions are folded into the weights
around (`passes.fold_channel_scales`). Scales of activations with the shape [1] become scalars in
all three files, since TensorRT-RTX needs that for INT8; the values are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from sensitivity.errors import ExportError
from sensitivity.exporters.agreement import most_agree, relative_rms
from sensitivity.exporters.evaluate import check_metric, input_ports, outputs_of
from sensitivity.exporters.torch_model import FILES, disabled_by_variant, file_facts, in_variant
from sensitivity.exporters.verification import (
    FLOAT_TOLERANCE,
    OUTPUT_TOLERANCE,
    FileCheck,
    Verification,
)
from sensitivity.exporters.writing import save
from sensitivity.files import write_whole
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.canonical import canonical
from sensitivity.onnx_graph.clamps import RESTORED
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.passes.fake_quant_pairs import FakeQuantPairs
from sensitivity.onnx_graph.passes.fold_channel_scales import FoldChannelScales
from sensitivity.onnx_graph.passes.scalar_scales import ScalarScales
from sensitivity.onnx_graph.passes.skip_uses import (
    MICROSOFT,
    PER_CHANNEL_FROM,
    SUFFIX,
    domain_of,
    original_name,
)
from sensitivity.onnx_graph.uses import paths, uses
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.records import Range, Unit
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.simulators.base import Simulator
from sensitivity.tasks.scoring import Scoring

OWN = "sensitivity."
"""Prefix of the metadata that exports add. All other metadata are the user's."""


def export_onnx(
    source: QuantizedModel,
    units: Sequence[Unit],
    skip: Sequence[str],
    out: Path,
    *,
    fingerprint: str,
    formats: Collection[Range] = (),
) -> dict[str, Path]:
    """Write model.float.onnx, model.int8.onnx and model.partial.onnx, and return variant -> file.

    formats: ranges that give uses 16 bits or FP8, in force in the partial file only.
    Raises WriteError.
    """
    model: OnnxModel = source.model
    files = {}
    for variant, disabled in disabled_by_variant(source, units, skip).items():
        with in_variant(source, variant, formats):
            made = model.without(disabled | model.skipped)
        if not _is_users_own(model, variant):
            FoldChannelScales()(made)
        ScalarScales()(made)
        if _is_users_own(model, variant):
            files[variant] = _same_file(model, made, out / FILES[variant])
        else:
            made.metadata_props.update(file_facts(variant, units, disabled, fingerprint))
            files[variant] = save(made, out / FILES[variant])
    return files


def _same_file(model: OnnxModel, made: ir.Model, path: Path) -> Path:
    """Copy the user's file. Weights stored beside it are included, scales of shape [1] become
    scalars, and TensorFlow's fake-quant operations become pairs."""
    original = load_model(model.path)
    tensors = [value.const_value for value in original.graph.initializers.values()]
    if any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors):
        return save(made, path)
    has_new_pairs = FakeQuantPairs()(original).modified
    if ScalarScales()(original).modified or has_new_pairs:
        return save(original, path)
    write_whole(path, model.path.read_bytes())
    return path


def verify_onnx(
    source: QuantizedModel,
    files: Mapping[str, Path],
    disabled: Mapping[str, frozenset[str]],
    example_inputs: Any,
    simulator: Simulator,
    *,
    scoring: Scoring | None = None,
    formats: Collection[Range] = (),
) -> Verification:
    """Check the files that `export_onnx` wrote with the same `formats`, whose ranges the simulator
    has.

    Kept uses of pairs must be there and skipped ones gone, scales must be finite and positive,
    everything else must be as in the user's file, and outputs and metric in ONNX Runtime must agree
    with `simulator`, which measured the plan.

    disabled: quantizers that each file leaves out, see `disabled_by_variant`.
    scoring: None does not compare the metric.
    Raises ExportError with the file and the difference.
    """
    switched = dict(disabled)
    switched["partial"] = disabled["partial"] | {of_format.key for of_format in formats}
    reference = {
        variant: _flat(_simulated(simulator, names, example_inputs))
        for variant, names in switched.items()
    }
    checks = []
    for variant, file in files.items():
        with in_variant(source, variant, formats):
            kept = _check_graph(source, file, variant, disabled[variant])
        outputs = _flat(_of_file(file, example_inputs))
        rms = relative_rms(outputs, reference[variant], reference["float"])
        own = relative_rms(reference["float"], reference[variant], reference["float"])
        limit = max(OUTPUT_TOLERANCE * own, FLOAT_TOLERANCE)
        if not rms <= limit and not most_agree(
            outputs, reference[variant], reference["float"], limit
        ):
            raise ExportError(
                f"Expected outputs of {file.name} to differ from what was measured by at most "
                f"{limit:.2g} (relative RMS), got {rms:.2g}; this is a fault of the export: please "
                "report it."
            )
        metric = None
        judged = scoring and scoring.of(variant)
        if judged is not None and variant != "float":
            simulate = partial(_simulated, simulator, switched[variant])
            metric = check_metric(file, variant, simulate, judged)
        checks.append(FileCheck(variant, kept, rms, own, None, (), metric))
    return Verification(tuple(checks), (), len(reference["float"][0]))


def _check_graph(source: QuantizedModel, file: Path, variant: str, disabled: frozenset[str]) -> int:
    """Check the graph of a file and return how many uses of pairs it holds.

    Everything else in it must be as in the user's file.
    """
    model = canonical(load_model(file))
    qdq.check_scales(model, file.name)
    left_out = disabled | _left_out_besides(source.model, variant)
    kept = _check_placement(source, model, left_out, file.name)
    kept_grids = [grid for name, grid in source.model.grids.items() if name not in left_out]
    domains = {domain_of(grid, source.model.graph) for grid in kept_grids if grid.has_own_type}
    _check_rest(
        source.model.graph,
        model,
        file.name,
        opset=_opset(source.model, left_out),
        own_pairs=MICROSOFT in domains,
    )
    return kept


def _check_placement(
    source: QuantizedModel, model: ir.Model, disabled: Collection[str], name: str
) -> int:
    """Return how many uses of pairs the file holds. Raises ExportError unless they are exactly the
    kept ones."""
    original: OnnxModel = source.model
    wanted = {(use.unit, _pair(use.pair)) for use in original.uses if use.name not in disabled}
    present = {(use.unit, _pair(use.pair)) for use in uses(paths(model.graph))}
    problems = [f"{pair} of {unit} is missing" for unit, pair in sorted(wanted - present)]
    problems += [f"{pair} of {unit} should not be there" for unit, pair in sorted(present - wanted)]
    if problems:
        raise ExportError(
            f"Expected {name} to hold Q/DQ pairs for exactly {len(wanted)} uses, got "
            f"{len(problems)} differences: {'; '.join(problems[:5])}; this is a fault of the "
            "export: please report it."
        )
    return len(wanted)


def _pair(pair: qdq.Pair) -> str:
    return original_name(pair.name)


def _left_out_besides(model: OnnxModel, variant: str) -> frozenset[str]:
    """Return the uses that a file leaves out in addition to those of the plan."""
    return frozenset() if _is_users_own(model, variant) else model.skipped | model.freed


def _is_users_own(model: OnnxModel, variant: str) -> bool:
    """Return whether the file of this variant is the user's, byte for byte."""
    return variant == "int8" and not model.grids


def _opset(model: OnnxModel, left_out: Collection[str]) -> int:
    """Return the opset of the file's standard operations, raised if pairs that it keeps have scales
    per channel now."""
    own = int(model.graph.opset_imports.get("", 0))
    per_channel = any(
        grid.axis is not None for name, grid in model.grids.items() if name not in left_out
    )
    return max(own, PER_CHANNEL_FROM) if per_channel else own


def _check_rest(
    original: ir.Model, model: ir.Model, name: str, *, opset: int, own_pairs: bool = False
) -> None:
    """Raise ExportError unless operations, inputs, outputs, opsets and the user's metadata are as
    in the original.

    opset: expected opset of the standard operations.
    own_pairs: whether the file has pairs from ONNX Runtime's own domain.
    """
    wanted = {**dict(_opsets(original)), "": opset}
    opsets = sorted(({MICROSOFT: 1} | wanted if own_pairs else wanted).items())
    for what, before, after in (
        ("operations", _operations(original), _operations(model)),
        ("ports", _ports(original), _ports(model)),
        ("opsets", opsets, _opsets(model)),
        ("metadata", _metadata(original), _metadata(model)),
    ):
        if before != after:
            gone = [str(entry) for entry in before if entry not in after]
            new = [str(entry) for entry in after if entry not in before]
            raise ExportError(
                f"Expected {name} to keep the {what} of the original file, got "
                f"{len(gone) + len(new)} changed: {'; '.join([*gone, *new][:3])}; this is a fault "
                "of the export: please report it."
            )


def _operations(model: ir.Model) -> list[Any]:
    return [
        (node.name, node.domain, node.op_type, str(sorted(node.attributes)))
        for node in model.graph
        if not _may_change(node)
    ]


def _may_change(node: ir.Node) -> bool:
    """Return whether exports may add and remove such a node."""
    is_ours = (node.name or "").endswith((SUFFIX, RESTORED))
    return is_ours or node.op_type in {*qdq.PAIR, "Constant"}


def _ports(model: ir.Model) -> list[Any]:
    return [
        (value.name, str(value.type), str(value.shape))
        for value in (*model.graph.inputs, *model.graph.outputs)
    ]


def _opsets(model: ir.Model) -> list[Any]:
    return sorted(model.opset_imports.items())


def _metadata(model: ir.Model) -> list[Any]:
    return sorted(item for item in model.metadata_props.items() if not item[0].startswith(OWN))


def _simulated(simulator: Simulator, disabled: frozenset[str], inputs: Any) -> Any:
    ((_, outputs),) = simulator.outputs(inputs, [disabled])
    return outputs


def _flat(outputs: Any) -> list[np.ndarray]:
    arrays = outputs if isinstance(outputs, tuple) else (outputs,)
    return [np.asarray(array) for array in arrays]


def _of_file(file: Path, inputs: Any) -> Any:
    with OnnxRuntime(optimize=False).build(file) as engine:
        return outputs_of(engine, inputs, input_ports(file), None)
