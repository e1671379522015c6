"""Moves the scaling, shifting or casting of a pair whose Q and DQ have different grids into
operations after it.

x -> Q(a) -> DQ(b) -> Conv     becomes     x -> Q(a) -> DQ(a) -> Mul(b / a) -> Conv
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.levels import along
from sensitivity.onnx_graph.matching import match_or_none, matches, needed, require
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.walk import all_outputs, graph_of

Step = tuple[str, NDArray[Any] | None]
"""An operation after the pair and its second input; None for a Cast."""


class OneGridPerPair(ir.passes.InPlacePass):
    """Gives the DQ of each pair the grid of its Q. No value changes.

    Pairs with scales in blocks, and those with scales per channel of a tensor whose rank is not
    known, stay as they are; `differing_grids` finds them, and they are refused. Grids that the
    graph computes are not examined.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for two in _with_ranks(model):
            steps = match_or_none(_steps, two)
            if steps is not None:
                _unify(model.graph, two, steps)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


@dataclass(frozen=True, eq=False)
class _Grid:
    """A grid of a Q or DQ.

    scale: one, or one per channel along `axis`.
    zero_point: integers of the same shape.
    """

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
    """A pair whose Q has the grid `own` and whose DQ has the grid `other`.

    rank: rank of the pair's tensor; None if it is not known, or was not looked up.
    """

    pair: qdq.Pair
    quantize: ir.Node
    own: _Grid
    other: _Grid
    rank: int | None = None

    @property
    def is_by_channel(self) -> bool:
        return self.own.axis is not None or self.other.axis is not None


def differing_grids(graph: ir.Graph) -> list[qdq.Pair]:
    """Return the pairs whose Q and DQ are known to have different grids."""
    return [two.pair for two in matches(_two_grids, qdq.pairs(graph))]


def _two_grids(pair: qdq.Pair) -> _TwoGrids:
    """Return the pair with its two grids. Raises NoMatch if they are the same, or one is not
    known."""
    quantize = needed(pair.quantize)
    own, other = _grid(quantize), _grid(pair.dequantize)
    require(not own.equals(other))
    return _TwoGrids(pair, quantize, own, other)


def _grid(node: ir.Node) -> _Grid:
    """Return the grid of a Q or DQ. Raises NoMatch if the graph computes it."""
    scale = needed(qdq.constant(node.inputs[1]))
    zero_point = np.zeros(scale.shape)
    given = qdq.zero_point_value(node)
    if given is not None:
        zero_point = needed(qdq.constant(given))
    axis = qdq.axis_of(node) if scale.size > 1 else None
    return _Grid(scale, zero_point.astype(np.int64), axis)


def _with_ranks(model: ir.Model) -> list[_TwoGrids]:
    """Return all pairs with two grids.

    Ranks are looked up only if some grid is per channel, because that takes a copy of the model.
    """
    pairs = list(matches(_two_grids, qdq.pairs(model.graph)))
    if not any(two.is_by_channel for two in pairs):
        return pairs
    ranks = _ranks(model)
    return [replace(two, rank=ranks.get(two.pair.source.name)) for two in pairs]


def _ranks(model: ir.Model) -> dict[str | None, int]:
    """Return name of a value -> its rank, if that can be known."""
    known = model.clone()
    common.ShapeInferencePass()(known)
    values = [*known.graph.inputs, *known.graph.initializers.values()]
    values += all_outputs(known.graph.all_nodes())
    return {value.name: len(value.shape) for value in values if value.shape is not None}


def _steps(two: _TwoGrids) -> list[Step]:
    """Return the operations that turn values of the pair's own grid into what its DQ gives.

    Raises NoMatch if that cannot be written.
    """
    own, other, rank = two.own, two.other, two.rank
    has_blocks = max(own.scale.ndim, other.scale.ndim) > 1
    require(not has_blocks)
    require(rank is not None or not two.is_by_channel)
    kind = other.scale.dtype
    # A scale that was only rounded to the other type needs no factor.
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


def _unify(graph: ir.Graph, two: _TwoGrids, steps: list[Step]) -> None:
    """Give the DQ the grid of its Q, and let these operations follow it."""
    pair, output = two.pair, two.pair.output
    kind = ir.DataType.from_numpy(two.other.scale.dtype)
    new = _on_own_grid(two)
    nodes, value = [new], new.outputs[0]
    for operation, operand in steps:
        name = f"{pair.name}_{operation.lower()}"
        result = ir.Value(name=f"{name}_out", type=output.type, shape=output.shape)
        inputs, attributes = [value], {"to": int(kind)}
        if operand is not None:
            inputs, attributes = [value, add(graph, name, operand)], {}
        nodes.append(ir.node(operation, inputs, attributes, name=name, outputs=[result]))
        value = result
    if output.is_graph_output():  # the new output takes over the name
        output.name, value.name = f"{output.name}_unified", output.name
    graph_here = graph_of(pair.dequantize)
    graph_here.insert_before(pair.dequantize, nodes)
    ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=True)
    graph_here.remove(pair.dequantize, safe=True)


def _on_own_grid(two: _TwoGrids) -> ir.Node:
    """Return the DQ with the parameters of its Q."""
    quantize, dequantize, output = two.quantize, two.pair.dequantize, two.pair.output
    attributes = dict(dequantize.attributes)
    attributes.pop("axis", None)
    if "axis" in quantize.attributes:
        attributes["axis"] = quantize.attributes["axis"]
    kind = ir.TensorType(ir.DataType.from_numpy(two.own.scale.dtype))
    given = ir.Value(name=f"{output.name}_own_grid", type=kind, shape=output.shape)
    inputs = [dequantize.inputs[0], *quantize.inputs[1:]]
    return ir.Node(
        dequantize.domain,
        dequantize.op_type,
        inputs,
        list(attributes.values()),
        name=dequantize.name,
        outputs=[given],
    )
