"""Exports a calibrated model as three ONNX files: float, fully quantized, and with a skip-set left
out."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass

import sensitivity
from sensitivity.errors import ExportError
from sensitivity.exporters.ranges import activation_ranges, keep_ranges
from sensitivity.exporters.simulate import first_samples, quantized_weights
from sensitivity.exporters.writing import save, writing
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.levels import OPSET, level_type, opset_of
from sensitivity.onnx_graph.marks import module_outputs
from sensitivity.onnx_graph.passes.fold_batchnorm import FoldBatchNorm
from sensitivity.onnx_graph.passes.fold_channel_scales import FoldChannelScales, can_fold, links
from sensitivity.onnx_graph.passes.fold_constants import FoldConstants
from sensitivity.onnx_graph.passes.insert_qdq import InsertQdq, QuantizedWeight
from sensitivity.onnx_graph.passes.name_nodes import NameNodes
from sensitivity.onnx_graph.passes.quantize_once import QuantizeOnce
from sensitivity.onnx_graph.passes.take_marks import TakeMarks
from sensitivity.onnx_graph.passes.tidy import tidy
from sensitivity.onnx_graph.passes.transposed_weights import TransposedWeights
from sensitivity.quantizers.base import QuantizedModel, Recalibratable, file_grid, quantizers_of
from sensitivity.records import Grid, Range, Unit, names_of

FILES = {"float": "model.float.onnx", "int8": "model.int8.onnx", "partial": "model.partial.onnx"}

TRACED_SAMPLES = 2
"""Samples of a trace, which holds the values of all operations at once. One would be taken for a
constant."""


def export_files(
    source: QuantizedModel,
    example_inputs: Any,
    units: Sequence[Unit],
    skip: Sequence[str],
    out: Path,
    *,
    fingerprint: str,
    calibration: Iterable[Any] | None = None,
    formats: Collection[Range] = (),
) -> dict[str, Path]:
    """Write model.float.onnx, model.int8.onnx and model.partial.onnx into `out`, and return them by
    variant.

    The files are not verified yet: see `verify`.

    example_inputs: one batch, as the model takes it: a tensor, a tuple or a dict of tensors; the
        first axis is the sample.
    skip: names of units left unquantized in the partial file.
    fingerprint: fingerprint of the run, stored in the files.
    calibration: batches of inputs for the ranges that lowerings need; None takes the example batch.
    formats: ranges that give quantizers 16 bits or FP8, used in the partial file only.
    Raises NamesError for a name in `skip` that is not a unit, ExportError if the model cannot be
    exported, and WriteError if a file cannot be written.
    """
    disabled = disabled_by_variant(source, units, skip)
    own_weights, _ = quantized_weights(source, example_inputs)
    weights = dict.fromkeys(FILES, own_weights)
    grids = {}
    for variant in FILES:
        with in_variant(source, variant, formats):
            grids[variant] = file_grids(source)
    if any(of_format.fp8 for of_format in formats):
        with in_variant(source, "partial", formats):
            weights["partial"], _ = quantized_weights(source, example_inputs)
    opset = max(map(needed_opset, grids.values()))
    traced = _traced(source, example_inputs, disabled, opset)
    layers = {quantizer.name: quantizer.layer for quantizer in source.quantizers}
    models = {}
    for variant in FILES:
        kept = {
            quantizer: grid
            for quantizer, grid in grids[variant].items()
            if quantizer not in disabled[variant]
        }
        models[variant] = canonical(traced[variant], kept, weights[variant], layers)
        models[variant].metadata_props.update(
            file_facts(variant, units, disabled[variant], fingerprint)
        )
    with writing(Path(out) / FILES["int8"]):  # the ranges are measured with a temporary file
        ranges = activation_ranges(
            models["int8"], [example_inputs] if calibration is None else calibration
        )
    for variant in ("int8", "partial"):
        keep_ranges(models[variant], ranges)
    return {variant: save(models[variant], Path(out) / name) for variant, name in FILES.items()}


def _traced(
    source: QuantizedModel,
    example_inputs: Any,
    disabled: Mapping[str, frozenset[str]],
    opset: int,
) -> dict[str, ir.Model]:
    """Return the traced model by variant.

    All variants share one trace, unless biases are corrected or weights are rounded differently: a
    layer that is left out keeps its own values.
    """
    from sensitivity.exporters.trace import trace

    changes = [getattr(source, name, None) for name in ("biases", "roundings")]
    corrected = frozenset[str]().union(*(change.in_force for change in changes if change))

    few = first_samples(example_inputs, TRACED_SAMPLES)

    @cache
    def with_own_values(names: frozenset[str]) -> ir.Model:
        with source.disabled(names):
            try:
                return trace(source, few, opset=opset)
            except ExportError:  # the model takes batches of one size only
                return trace(source, example_inputs, opset=opset)

    return {variant: with_own_values(names & corrected) for variant, names in disabled.items()}


@contextmanager
def in_variant(source: QuantizedModel, variant: str, formats: Collection[Range]) -> Iterator[None]:
    """Put the model into the state of this variant's file, inside the `with`.

    formats: as for `export_files`.
    """
    with ExitStack() as stack:
        if variant == "partial" and formats:
            stack.enter_context(cast("Recalibratable", source).with_ranges(formats))
        if hasattr(source, "file_levels"):
            stack.enter_context(source.file_levels())
        yield


def file_grids(source: QuantizedModel) -> dict[str, Grid]:
    """Return the grid of every quantizer. Raises ModelError or ExportError if a file cannot hold
    one."""
    grids = {quantizer.name: file_grid(source, quantizer.name) for quantizer in source.quantizers}
    for name, grid in grids.items():
        level_type(name, grid)
    return grids


def needed_opset(grids: Mapping[str, Grid]) -> int:
    """Return the first opset that supports all of these grids, but at least `OPSET`."""
    return max(OPSET, *(opset_of(name, grid) for name, grid in grids.items()))


def disabled_by_variant(
    source: QuantizedModel, units: Sequence[Unit], skip: Sequence[str]
) -> dict[str, frozenset[str]]:
    """Return the quantizers that each of the three files leaves out."""
    every = frozenset(names_of(source.quantizers))
    return {"float": every, "int8": frozenset(), "partial": quantizers_of(skip, units)}


def canonical(
    traced: ir.Model,
    grids: Mapping[str, Grid],
    weights: Mapping[str, QuantizedWeight],
    layers: Mapping[str, str],
) -> ir.Model:
    """Return the canonical Q/DQ form of a traced model with the quantizers in `grids` enabled.

    `traced` is not changed.
    """
    model = traced.clone()
    passes = ir.passes.Sequential(
        NameNodes(layers),
        InsertQdq(grids, weights),
        TakeMarks(),
        QuantizeOnce(),
        TransposedWeights(),
        # torch writes parameters with equal values once, and reads them through Identity.
        IdentityEliminationPass(),
        FoldBatchNorm(),
        FoldConstants(),
        FoldChannelScales(),
        tidy(),
    )
    model = passes(model).model
    check_weight_axes(model)
    model.opset_imports.pop("sensitivity", None)
    model.metadata_props["sensitivity.layers"] = json.dumps(_layers(model))
    return model


def even_links(
    source: QuantizedModel, example_inputs: Any, traced: ir.Model | None = None
) -> tuple[str, ...]:
    """Return the quantizers whose ranges may be per channel, because a file can fold them into the
    weights around (`passes.fold_channel_scales`).

    traced: the graph of the model, if it is there; None traces it now.
    Raises ExportError if the model cannot be traced, and ModelError if it has other than integer
    grids.
    """
    if not any(getattr(module, "groups", 1) > 1 for module in source.model.modules()):
        return ()
    from sensitivity.exporters.trace import trace

    grids = file_grids(source)
    layers = {quantizer.name: quantizer.layer for quantizer in source.quantizers}
    weights, _ = quantized_weights(source, example_inputs)
    model = canonical(traced or trace(source, example_inputs), grids, weights, layers)
    foldable = [link for link in links(model.graph) if can_fold(link)]
    return tuple(link.quantizer for link in foldable if link.quantizer in grids)


def check_weight_axes(model: ir.Model) -> None:
    """Raise ExportError for a weight with scales along another axis than its output channels."""
    for node in qdq.weighted_nodes(model.graph):
        pair = qdq.pair_of(qdq.weight(node))
        if pair is None or pair.axis is None or pair.block is not None:
            continue  # blocks run along the input channels
        weight = qdq.constant(pair.source)
        if weight is None:
            continue
        wanted = qdq.output_axis(node, weight.ndim)
        if pair.axis % weight.ndim != wanted:
            raise ExportError(
                f"Expected the weight of {node.name} ({node.op_type}) quantized along axis "
                f"{wanted}, its output channels, got axis {pair.axis}, which no engine can run in "
                f"INT8; calibrate it along axis {wanted} or per tensor, or leave the layer out."
            )


def _layers(model: ir.Model) -> dict[str, list[dict[str, Any]]]:
    """Return, for each marked module and each of its calls, its output value and the BatchNorm
    folded into it."""
    layers: dict[str, list[dict[str, Any]]] = {}
    for node in model.graph.all_nodes():
        for value in node.outputs:
            for output in module_outputs(value):
                record = {"call": output.call, "value": value.name, "then": output.then}
                layers.setdefault(output.module, []).append(record)
    return layers


def file_facts(
    variant: str, units: Sequence[Unit], disabled: Collection[str], fingerprint: str
) -> dict[str, str]:
    """Return the metadata of an exported file, which `rules.plan` reads."""
    left_out = {unit.name: set(unit.quantizers) <= set(disabled) for unit in units}
    return {
        "sensitivity.version": sensitivity.__version__,
        "sensitivity.variant": variant,
        "sensitivity.fingerprint": fingerprint,
        "sensitivity.skipped": json.dumps([name for name, out in left_out.items() if out]),
        "sensitivity.kept": json.dumps([name for name, out in left_out.items() if not out]),
    }
