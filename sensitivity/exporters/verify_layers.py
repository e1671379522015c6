"""Checks each quantized layer of an exported file alone, against the model's own module on the same
input."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from sensitivity import optional
from sensitivity.errors import ExportError
from sensitivity.exporters.simulate import first_samples, hooked, numpy, outputs_of
from sensitivity.exporters.verification import LAYER_TOLERANCE, LayerCheck
from sensitivity.onnx_graph import walk
from sensitivity.onnx_graph.levels import along, broadcast_scale, level_type, nearest_levels
from sensitivity.onnx_graph.marks import PRE_SCALE
from sensitivity.onnx_graph.passes.fold_channel_scales import PARTS
from sensitivity.onnx_graph.walk import value_name
from sensitivity.quantizers.base import QuantizedModel, file_grid
from sensitivity.quantizers.torch.calls import every_module_called
from sensitivity.records import Grid, Quantizer
from sensitivity.runtimes.onnxruntime import OnnxRuntime

LAYER_SAMPLES = 4
"""Samples that each layer is checked on. Few are needed, since every value of every channel is
compared."""

NEAR_BOUNDARY = 1e-4
"""Distance from a rounding boundary, in steps of the grid, below which x / scale and x * (1 /
scale) may round differently."""


RELATIVELY_NEAR = 2.0**-21
"""The same distance for fine grids (INT16, and FP8 near 0), relative to the value: a few roundings
of float32."""


@dataclass(frozen=True, eq=False)
class Call:
    """The first call of a layer.

    quantizers: its kept quantizers.
    args: the arguments of the call.
    fed: input quantizer -> position of the argument that it received; None if one received anything
        else.
    """

    quantizers: tuple[Quantizer, ...]
    args: tuple[Any, ...]
    fed: dict[str, int] | None


def check_layers(
    source: QuantizedModel,
    model: ir.Model,
    example_inputs: Any,
    disabled: Collection[str],
    name: str,
) -> tuple[LayerCheck, ...]:
    """Compare every layer that keeps a quantizer. Raises ExportError with the layer and the
    difference."""
    layers: dict[str, list[Quantizer]] = {}
    for quantizer in source.quantizers:
        if quantizer.name not in disabled:
            layers.setdefault(quantizer.layer, []).append(quantizer)
    calls = _first_calls(source, first_samples(example_inputs, LAYER_SAMPLES), disabled, layers)
    records = json.loads(model.metadata_props.get("sensitivity.layers", "{}"))
    with (
        optional.torch.inference_mode(),
        every_module_called(),
        source.disabled(disabled),
        tempfile.TemporaryDirectory() as folder,
    ):
        file = Path(folder) / "layer.onnx"
        checks = tuple(
            _unchecked(layer)
            if _holds_another(layer, layers)
            else _check(source, model, call, records.get(layer, []), file)
            for layer, call in calls.items()
        )
    for check in checks:
        if check.difference is not None and not check.difference <= LAYER_TOLERANCE:
            raise ExportError(
                f"Expected layer {check.layer} of {name} to agree with the simulated model to "
                f"{LAYER_TOLERANCE:g} on the same input (largest difference over largest output), "
                f"got {check.difference:.2g}; leave the layer out, or report this."
            )
    return checks


def _holds_another(layer: str, layers: Collection[str]) -> bool:
    """Return whether another quantized layer is inside this one, such as the convolutions of a
    block that quantizes its own shortcut.

    The values between them are quantized too, and one near a rounding boundary may differ by a
    step, so such a layer cannot agree alone.
    """
    inside = f"{layer}." if layer else ""
    return any(other != layer and other.startswith(inside) for other in layers)


def _unchecked(layer: str) -> LayerCheck:
    return LayerCheck(layer, None, 0.0)


def _first_calls(
    source: QuantizedModel,
    inputs: Any,
    disabled: Collection[str],
    layers: dict[str, list[Quantizer]],
) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    given: dict[str, optional.torch.Tensor] = {}
    owners = {quantizer.name: layer for layer, members in layers.items() for quantizer in members}

    def keep(name: str, args: Any, output: Any) -> None:
        if name in owners:
            given.setdefault(name, args[0])
        elif name not in calls:
            calls[name] = Call(tuple(layers[name]), _copies(args), _fed(layers[name], given, args))

    with hooked(source, [*owners, *layers], keep):
        outputs_of(source, inputs, disabled)
    return calls


def _copies(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return copies of the tensors, which a later in-place operation could change."""
    return tuple(arg.clone() if isinstance(arg, optional.torch.Tensor) else arg for arg in args)


def _fed(
    quantizers: list[Quantizer], given: dict[str, optional.torch.Tensor], args: tuple[Any, ...]
) -> dict[str, int] | None:
    fed = {}
    for name in (quantizer.name for quantizer in quantizers if quantizer.role == "input"):
        tensor = given.get(name)
        places = [place for place, arg in enumerate(args) if tensor is not None and arg is tensor]
        if not places:
            return None
        fed[name] = places[0]
    return fed


def _check(
    source: QuantizedModel, model: ir.Model, call: Call, records: list[dict[str, Any]], file: Path
) -> LayerCheck:
    layer = call.quantizers[0].layer
    first = [record for record in records if record["call"] == 0]
    gives_levels = any(quantizer.role == "output" for quantizer in call.quantizers)
    if not first or call.fed is None or gives_levels:
        return _unchecked(layer)
    record = first[0]
    values = _input_values(model, layer, call.fed)
    if values is None or not _cut(model, list(values), record["value"], file):
        return _unchecked(layer)
    args, moved = _off_boundaries(source, call)
    modules = dict(source.model.named_modules())
    expected = modules[layer](*args)
    if record["then"] is not None:
        expected = modules[record["then"]](expected)
    parts = json.loads(model.metadata_props.get(PARTS, "{}"))
    given = {name: numpy(args[place]) for name, place in values.items()}
    feed = {name: array / _parts(parts, name, array) for name, array in given.items()}
    with OnnxRuntime(optimize=False).build(file) as engine:
        (output,) = engine.run(feed).values()
    output = output * _parts(parts, record["value"], output)
    return LayerCheck(layer, _largest_difference(output, numpy(expected)), moved)


def _parts(parts: Mapping[str, Sequence[float]], name: str, array: np.ndarray) -> np.ndarray:
    """Return the factor that turns a value of the file into the model's value, where the file
    scales channels.

    array: an array with the shape and type of the value.
    """
    own = np.asarray(parts.get(name, [1.0]), array.dtype)
    return along(own, 1, array.ndim)


def _input_values(model: ir.Model, layer: str, fed: dict[str, int]) -> dict[str, int] | None:
    """Return the values that enter the layer in the graph: name -> position of the argument."""
    nodes = {node.name: node for node in model.graph.all_nodes()}
    entering = {f"{name}/QuantizeLinear": place for name, place in fed.items()} or {layer: 0}
    values = {}
    for name, place in entering.items():
        value = _before_pre_scale(walk.input_at(nodes.get(name), 0))
        if value is None or value.name is None:
            return None
        values[value.name] = place
    return values


def _before_pre_scale(value: ir.Value | None) -> ir.Value | None:
    """Return the value that a pre-quantization scale multiplies, or the value itself if there is
    none."""
    scaling = walk.made_by(value, "Mul")
    factor = walk.input_at(scaling, 1)
    is_pre_scale = factor is not None and value_name(factor).endswith(PRE_SCALE)
    return walk.input_at(scaling, 0) if is_pre_scale else value


def _cut(model: ir.Model, inputs: list[str], output: str, file: Path) -> bool:
    """Write the part of the graph between these values. Returns False if other values enter it."""
    try:
        graph = ir.convenience.extract(model.graph, inputs, [output])
    except ValueError:
        return False
    for value in (*graph.inputs, *graph.outputs):
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), None
    ir.save(ir.Model(graph, ir_version=model.ir_version), file)
    return True


def _off_boundaries(source: QuantizedModel, call: Call) -> tuple[list[Any], float]:
    """Return the arguments with values near a rounding boundary moved onto the grid, and the
    fraction of values moved."""
    args, moved, total = list(call.args), 0, 0
    modules = dict(source.model.named_modules())
    for name, place in (call.fed or {}).items():
        array, grid = numpy(args[place]), file_grid(source, name)
        factor = pre_scale(modules[name])
        scaled = array * factor
        near = near_boundary(scaled, grid)
        step = broadcast_scale(grid.scale, grid, array.shape)
        levels = nearest_levels(scaled / step, level_type(name, grid))
        on_grid = np.where(near, levels * step / factor, array).astype(array.dtype)
        args[place] = optional.torch.from_numpy(on_grid).to(args[place].device)
        moved, total = moved + int(near.sum()), total + near.size
    return args, moved / total if total else 0.0


def pre_scale(quantizer: Any) -> np.ndarray:
    """Return the factor that a quantizer multiplies its input by; 1 for most."""
    scale = getattr(quantizer, PRE_SCALE, None)
    return np.ones(1, np.float32) if scale is None else numpy(scale)


def near_boundary(array: np.ndarray, grid: Grid) -> np.ndarray:
    """Return where a value is so near the middle between two levels that the order of float
    operations decides."""
    kind = level_type("", grid)
    steps = array.astype(np.float64) / broadcast_scale(grid.scale, grid, array.shape)
    margin = np.maximum(NEAR_BOUNDARY * (not grid.is_float), np.abs(steps) * RELATIVELY_NEAR)
    near: np.ndarray = nearest_levels(steps - margin, kind) != nearest_levels(steps + margin, kind)
    return near


def _largest_difference(output: np.ndarray, expected: np.ndarray) -> float:
    if output.shape != expected.shape:
        return float("inf")
    return float(
        np.abs(output - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30)
    )
