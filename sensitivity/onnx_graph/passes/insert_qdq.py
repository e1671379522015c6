"""Put Q/DQ pairs where quantizers are marked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.levels import along, level_type, nearest_levels, numpy_type, spread
from sensitivity.onnx_graph.marks import all_marks, remove
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.new_pair import new_pair
from sensitivity.onnx_graph.walk import first_input
from sensitivity.records import Grid


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """values: float32, before the quantizer. levels: float32 of the same shape, those of the
    quantizer's type that it turns them into."""

    values: np.ndarray
    levels: np.ndarray


class InsertQdq(ir.passes.InPlacePass):
    """Turn each `Quantizer` mark whose name is in `grids` into Q -> DQ, and remove the others.

    grids: as `levels.level_type` takes them; the model is of an opset that has them. weights: what
    each weight quantizer gets and gives in the simulated model. Weights that the user's model
    computes become initializers; weights are moved, if need be, so that Q gives exactly the
    simulated levels. Promises an explicit axis and explicit zero points of the levels' type.
    Raises ExportError for other grids.
    """

    def __init__(self, grids: Mapping[str, Grid], weights: Mapping[str, QuantizedWeight]) -> None:
        self.grids = grids
        self.weights = weights

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        marks = all_marks(model.graph.all_nodes(), "Quantizer")
        uses: Counter[str] = Counter()
        for mark in marks:
            name = mark.attributes.get_string("name")
            if name in self.grids:
                self._insert(model.graph, mark, uses[name])
                uses[name] += 1
            remove(mark)
        return ir.passes.PassResult(model, modified=bool(marks))

    def _insert(self, graph: ir.Graph, mark: ir.Node, use: int) -> None:
        """Put a pair in front of the mark. use: how many marks of its quantizer have one
        already."""
        name = mark.attributes.get_string("name")
        grid = self.grids[name]
        kind = level_type(name, grid)
        source = first_input(mark)
        # Behind another pair, as of INT4 weights in FP8, the values are on a grid already.
        if name in self.weights and qdq.pair_of(source) is None:
            source = _exact(graph, source, self.weights[name], grid, kind)
        suffix = f"_{use}" if use else ""
        axis = None if is_per_tensor(grid) else grid.axis
        names = f"{name}/QuantizeLinear{suffix}", f"{name}/DequantizeLinear{suffix}"
        parameters = _parameters(graph, name, grid, kind)
        quantize, dequantize = new_pair(source, parameters, axis, names, grid.block)
        quantize.outputs[0].name = f"{name}.quantized{suffix}"
        dequantize.outputs[0].name = f"{name}.dequantized{suffix}"
        dequantize.outputs[0].type, dequantize.outputs[0].shape = source.type, source.shape
        graph.insert_before(mark, [quantize, dequantize])
        mark.replace_input_with(0, dequantize.outputs[0])


def _exact(
    graph: ir.Graph, source: ir.Value, weight: QuantizedWeight, grid: Grid, kind: ir.DataType
) -> ir.Value:
    values = qdq.constant(source)
    moved = snapped(weight.values if values is None else values, weight.levels, grid, kind)
    return source if moved is values else add(graph, f"{source.name}.on_grid", moved)


def snapped(weight: np.ndarray, levels: np.ndarray, grid: Grid, kind: ir.DataType) -> np.ndarray:
    """Return the same weight, with the few values moved that Q would not round to `levels`: those
    on a rounding boundary, or beyond a narrow range. The very same array where there are none."""
    scale = spread(grid.scale, grid, weight.shape)
    wrong = nearest_levels(weight / scale, kind) != levels
    if not wrong.any():
        return weight
    return np.where(wrong, (levels * scale).astype(weight.dtype), weight)


def to_levels(
    values: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray,
    axis: int | None,
    limits: tuple[int, int],
) -> np.ndarray:
    """Return the levels that Q rounds values to, not yet of an integer type. limits: smallest and
    largest level."""
    steps = np.rint(values / along(scale, axis, values.ndim))
    return np.asarray(np.clip(steps + along(zero_point, axis, values.ndim), *limits))


def is_per_tensor(grid: Grid) -> bool:
    """Return whether one scale is for the whole tensor: also where it runs along an axis of one
    entry."""
    has_one_scale = grid.scale.size == 1 and grid.block is None
    return grid.axis is None or has_one_scale


def _parameters(
    graph: ir.Graph, name: str, grid: Grid, kind: ir.DataType
) -> tuple[ir.Value, ir.Value]:
    """Return the initializers for scale and zero point, scalars per tensor; shared by all uses of
    one quantizer."""
    names = f"{name}.scale", f"{name}.zero_point"
    if names[0] in graph.initializers:
        return graph.initializers[names[0]], graph.initializers[names[1]]
    scale = _shaped(grid).astype(np.float32)
    zeros = np.zeros(scale.shape, numpy_type(kind))
    return add(graph, names[0], scale), add(graph, names[1], zeros, kind)


def _shaped(grid: Grid) -> np.ndarray:
    """Return the scales of a grid: [] per tensor, [channels] per channel, in blocks as they are."""
    if is_per_tensor(grid):
        return grid.scale.reshape(())
    if grid.block:
        return grid.scale
    return grid.scale.reshape(-1)
