"""Where Q and DQ have different grids the pair also scales, shifts or casts: let operations of
their own do that.

x -> Q(a) -> DQ(b) -> Conv     becomes     x -> Q(a) -> DQ(a) -> Mul(b / a) -> Conv
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.levels import along
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.walk import graph_of

Step = tuple[str, NDArray[Any] | None]
"""An operation behind the pair, and its second input; None for a Cast."""


class OneGridPerPair(ir.passes.InPlacePass):
    """Leaves pairs with scales in blocks as they are, and those by channel of a tensor whose number
    of axes is not known: what is left is refused (`differing_grids`). Grids that the graph computes
    are not looked at."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [pair for pair in map(_two_grids, qdq.pairs(model.graph)) if pair is not None]
        ranks = _ranks(model) if any(pair.is_by_channel for pair in found) else {}
        changed = False
        for two in found:
            steps = _steps(two, ranks.get(two.pair.source.name))
            if steps is not None:
                _unify(model.graph, two.pair, steps)
                changed = True
        return ir.passes.PassResult(model, modified=changed)


@dataclass(frozen=True, eq=False)
class _Grid:
    """scale: one, or one for each channel along `axis`. zero_point: integers of the same shape."""

    scale: NDArray[Any]
    zero_point: NDArray[np.int64]
    axis: int | None

    def equals(self, other: _Grid) -> bool:
        return self._parts() == other._parts()

    def _parts(self) -> tuple[object, ...]:
        levels = self.zero_point.reshape(-1).tolist()
        return self.scale.dtype, self.axis, self.scale.reshape(-1).tolist(), levels


@dataclass(frozen=True, eq=False)
class _TwoGrids:
    """A pair whose Q has the grid `own`, and its DQ `other`."""

    pair: qdq.Pair
    own: _Grid
    other: _Grid

    @property
    def is_by_channel(self) -> bool:
        return self.own.axis is not None or self.other.axis is not None


def differing_grids(graph: ir.Graph) -> list[qdq.Pair]:
    """The pairs whose Q and DQ are known to have different grids."""
    return [pair for pair in qdq.pairs(graph) if _two_grids(pair) is not None]


def _two_grids(pair: qdq.Pair) -> _TwoGrids | None:
    """None where Q and DQ have the same grid, or one is not known."""
    if pair.quantize is None:
        return None
    own, other = _grid(pair.quantize), _grid(pair.dequantize)
    if own is None or other is None or own.equals(other):
        return None
    return _TwoGrids(pair, own, other)


def _grid(node: ir.Node) -> _Grid | None:
    """The grid of a Q or DQ; None where the graph computes it."""
    scale, given = qdq.constant(node.inputs[1]), qdq.zero_point_value(node)
    if scale is None:
        return None
    levels = np.zeros(scale.shape) if given is None else qdq.constant(given)
    if levels is None:
        return None
    axis = qdq.axis_of(node) if scale.size > 1 else None
    return _Grid(scale, levels.astype(np.int64), axis)


def _ranks(model: ir.Model) -> dict[str | None, int]:
    """Value -> its number of axes, where it can be known."""
    known = model.clone()
    common.ShapeInferencePass()(known)
    values = [*known.graph.inputs, *known.graph.initializers.values()]
    values += [value for node in known.graph.all_nodes() for value in node.outputs]
    return {value.name: len(value.shape) for value in values if value.shape is not None}


def _steps(two: _TwoGrids, rank: int | None) -> list[Step] | None:
    """What turns values of the pair's own grid into what its DQ gives; None where that cannot be
    written."""
    own, other = two.own, two.other
    has_blocks = max(own.scale.ndim, other.scale.ndim) > 1
    if has_blocks or (rank is None and two.is_by_channel):
        return None
    kind = other.scale.dtype
    # A scale that was only rounded to the other type is no factor.
    old_scale, new_scale = (
        _shaped(grid.scale.astype(kind).astype(np.float64), grid, rank) for grid in (own, other)
    )
    factor = new_scale / old_scale
    moved = _shaped(own.zero_point, own, rank) - _shaped(other.zero_point, other, rank)
    shift = moved * new_scale
    steps: list[Step] = []
    if kind != own.scale.dtype:
        steps.append(("Cast", None))
    if (factor != 1).any():
        steps.append(("Mul", factor.astype(kind)))
    if shift.any():
        steps.append(("Add", shift.astype(kind)))
    return steps


def _shaped(values: NDArray[Any], grid: _Grid, rank: int | None) -> NDArray[Any]:
    if rank is None or grid.axis is None:
        return values.reshape(())
    return along(values, grid.axis % rank, rank)


def _unify(graph: ir.Graph, pair: qdq.Pair, steps: list[Step]) -> None:
    dequantize, output = pair.dequantize, pair.output
    kind = ir.DataType.from_numpy(np.asarray(pair.scale).dtype)
    graph_here = graph_of(dequantize)
    new = _on_own_grid(pair)
    graph_here.insert_before(dequantize, new)
    value = new.outputs[0]
    for operation, operand in steps:
        name = f"{pair.name}_{operation.lower()}"
        inputs = [value] if operand is None else [value, add(graph, name, operand)]
        attributes = {"to": int(kind)} if operation == "Cast" else {}
        made = ir.Value(name=f"{name}_out", type=output.type, shape=output.shape)
        graph_here.insert_before(
            dequantize, ir.node(operation, inputs, attributes, name=name, outputs=[made])
        )
        value = made
    if output.is_graph_output():  # what is read where the DQ's was has its name
        output.name, value.name = f"{output.name}_unified", output.name
    ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=True)
    graph_here.remove(dequantize, safe=True)


def _on_own_grid(pair: qdq.Pair) -> ir.Node:
    """The DQ with the parameters of its Q."""
    quantize, dequantize, output = pair.quantize, pair.dequantize, pair.output
    assert quantize is not None
    attributes = dict(dequantize.attributes)
    attributes.pop("axis", None)
    if "axis" in quantize.attributes:
        attributes["axis"] = quantize.attributes["axis"]
    kind = ir.DataType.from_numpy(np.asarray(qdq.constant(quantize.inputs[1])).dtype)
    given = ir.Value(name=f"{output.name}_own_grid", type=ir.TensorType(kind), shape=output.shape)
    inputs = [dequantize.inputs[0], *quantize.inputs[1:]]
    return ir.Node(
        dequantize.domain,
        dequantize.op_type,
        inputs,
        list(attributes.values()),
        name=dequantize.name,
        outputs=[given],
    )
