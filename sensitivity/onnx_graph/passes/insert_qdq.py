"""Puts Q/DQ pairs at the marks of quantizers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.levels import (
    along,
    broadcast_scale,
    level_type,
    nearest_levels,
    numpy_type,
)
from sensitivity.onnx_graph.marks import all_marks, remove
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.new_pair import new_pair
from sensitivity.onnx_graph.walk import first_input
from sensitivity.records import Grid


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight before and after its quantizer in the simulated model.

    values: float32, before the quantizer.
    levels: float32 of the same shape, the levels that the quantizer gives.
    """

    values: np.ndarray
    levels: np.ndarray


class InsertQdq(ir.passes.InPlacePass):
    """Turns each `Quantizer` mark whose name is in `grids` into Q -> DQ, and removes the other
    marks.

    Every pair gets an explicit axis and explicit zero points of the levels' type. Weights that the
    user's model computes become initializers. Weights are moved if needed, so that Q gives exactly
    the simulated levels.

    grids: grids that `levels.level_type` accepts, in a model whose opset has them.
    weights: weight quantizer -> its weight in the simulated model.
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
        """Put a pair before the mark.

        use: number of marks of its quantizer that have a pair already.
        """
        name = mark.attributes.get_string("name")
        grid = self.grids[name]
        kind = level_type(name, grid)
        source = first_input(mark)
        # After another pair, as for INT4 weights in FP8, the values are already on a grid.
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
    """Return the weight with values for which Q gives exactly the simulated levels."""
    values = qdq.constant(source)
    moved = snapped(weight.values if values is None else values, weight.levels, grid, kind)
    return source if moved is values else add(graph, f"{source.name}.on_grid", moved)


def snapped(weight: np.ndarray, levels: np.ndarray, grid: Grid, kind: ir.DataType) -> np.ndarray:
    """Return the weight with those values moved that Q would not round to `levels`.

    These are values on a rounding boundary, or beyond a narrow range. If there are none, the same
    array is returned.
    """
    scale = broadcast_scale(grid.scale, grid, weight.shape)
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
    """Return the levels to which Q rounds values, as floating-point numbers.

    limits: smallest and largest level.
    """
    steps = np.rint(values / along(scale, axis, values.ndim))
    return np.asarray(np.clip(steps + along(zero_point, axis, values.ndim), *limits))


def is_per_tensor(grid: Grid) -> bool:
    """Return whether one scale holds for the whole tensor, even if the grid has an axis of one
    entry."""
    has_one_scale = grid.scale.size == 1 and grid.block is None
    return grid.axis is None or has_one_scale


def _parameters(
    graph: ir.Graph, name: str, grid: Grid, kind: ir.DataType
) -> tuple[ir.Value, ir.Value]:
    """Return the initializers of scale and zero point, which all uses of one quantizer share."""
    names = f"{name}.scale", f"{name}.zero_point"
    if names[0] in graph.initializers:
        return graph.initializers[names[0]], graph.initializers[names[1]]
    scale = _shaped(grid).astype(np.float32)
    zeros = np.zeros(scale.shape, numpy_type(kind))
    return add(graph, names[0], scale), add(graph, names[1], zeros, kind)


def _shaped(grid: Grid) -> np.ndarray:
    """Return the scales of a grid: [] per tensor, [channels] per channel, unchanged in blocks."""
    if is_per_tensor(grid):
        return grid.scale.reshape(())
    if grid.block:
        return grid.scale
    return grid.scale.reshape(-1)
