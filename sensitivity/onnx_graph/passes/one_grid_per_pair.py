"""Where Q and DQ have different scales or zero points the pair also scales and shifts: let operations of their own do that.

x -> Q(a) -> DQ(b) -> Conv     becomes     x -> Q(a) -> DQ(a) -> Mul(b / a) -> Conv
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add


class OneGridPerPair(ir.passes.InPlacePass):
    """Pairs whose scales or zero points are computed in the graph, or run along an axis, stay as they are."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for pair in list(qdq.pairs(model.graph)):
            ends = _grids(pair)
            if ends is not None and ends[0] != ends[1]:
                _unify(model.graph, pair, *ends)
                changed = True
        return ir.passes.PassResult(model, modified=changed)


Grid = tuple[float, int]
"""Scale and zero point of a pair that has one of each."""


def _grids(pair: qdq.Pair) -> tuple[Grid, Grid] | None:
    """What Q and DQ have; None where they are not both known, or not one for the whole tensor."""
    if pair.quantize is None:
        return None
    found = [_grid(node) for node in (pair.quantize, pair.dequantize)]
    first, second = found
    return None if first is None or second is None else (first, second)


def _grid(node: ir.Node) -> Grid | None:
    scale, given = qdq.constant(node.inputs[1]), qdq.zero_point_value(node)
    zero_point = qdq.constant(given)
    if scale is None or scale.size != 1 or (given is not None and zero_point is None):
        return None
    return float(scale.reshape(-1)[0]), 0 if zero_point is None else int(zero_point.reshape(-1)[0])


def _unify(graph: ir.Graph, pair: qdq.Pair, own: Grid, other: Grid) -> None:
    quantize, dequantize = pair.quantize, pair.dequantize
    assert quantize is not None
    assert dequantize.graph is not None
    output = dequantize.outputs[0]
    kind = pair.scale.dtype if pair.scale is not None else np.dtype(np.float32)
    steps: list[tuple[str, NDArray[Any]]] = [("Mul", np.asarray(other[0] / own[0], kind))]
    if own[1] != other[1]:
        steps.append(("Add", np.asarray((own[1] - other[1]) * other[0], kind)))
    given, last = ir.Value(name=f"{output.name}_own_grid", type=output.type, shape=output.shape), dequantize
    value = given
    for operation, operand in steps:
        constant = add(graph, f"{pair.name}_{operation.lower()}", operand)
        made = ir.Value(name=f"{pair.name}_{operation.lower()}_out", type=output.type, shape=output.shape)
        node = ir.node(operation, [value, constant], name=f"{pair.name}_{operation.lower()}", outputs=[made])
        last.graph.insert_after(last, node)  # type: ignore[union-attr]
        value, last = made, node
    # The value is read where the DQ's was, and has its name.
    new = _with_output(dequantize, quantize, given)
    dequantize.graph.insert_before(dequantize, new)
    if output.is_graph_output():
        output.name, value.name = f"{output.name}_unified", output.name
    ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=True)
    dequantize.graph.remove(dequantize, safe=True)


def _with_output(dequantize: ir.Node, quantize: ir.Node, output: ir.Value) -> ir.Node:
    """The DQ with the parameters of its Q."""
    inputs = [dequantize.inputs[0], *quantize.inputs[1:]]
    attributes = list(dequantize.attributes.values())
    return ir.Node(dequantize.domain, dequantize.op_type, inputs, attributes, name=dequantize.name, outputs=[output])
