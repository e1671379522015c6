"""Weights stored as their operation reads them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.new_pair import new_pair


class TransposedWeights(ir.passes.InPlacePass):
    """weight -> Q -> DQ -> Transpose -> MatMul, as torch writes a Linear layer on more than two
    axes, becomes transposed weight -> Q -> DQ -> MatMul: engines look for weights directly behind
    their pair. No value changes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [
            node for node in model.graph if node.op_type == "Transpose" and _behind_weight(node)
        ]
        for node in found:
            _transpose_now(model.graph, node)
        return ir.passes.PassResult(model, modified=bool(found))


def _behind_weight(node: ir.Node) -> bool:
    pair = qdq.pair_of(node.inputs[0])
    if pair is None or pair.quantize is None:
        return False
    return pair.of_weight and pair.scale is not None


def _transpose_now(graph: ir.Graph, node: ir.Node) -> None:
    """A pair of its own, because the old one may have other users; it is removed later where it has
    none."""
    pair = qdq.pair_of(node.inputs[0])
    assert pair is not None
    weight = qdq.known(pair.source)
    order = list(node.attributes.get_ints("perm", tuple(reversed(range(weight.ndim)))))
    axis = pair.axis_in(weight.ndim)
    turned = np.ascontiguousarray(weight.transpose(order))
    stored = add(graph, f"{pair.source.name}.transposed", turned)
    parameters: list[ir.Value | None] = list(pair.dequantize.inputs[1:3])
    if pair.block is not None:
        parameters = [_turned(graph, value, order) for value in parameters]
    quantize, dequantize = new_pair(
        stored,
        parameters,
        None if axis is None else order.index(axis),
        (pair.nodes[0].name, pair.dequantize.name),
        pair.block,
    )
    graph.insert_before(node, [quantize, dequantize])
    node.outputs[0].replace_all_uses_with(dequantize.outputs[0])
    graph.remove(node, safe=True)


def _turned(graph: ir.Graph, value: ir.Value | None, order: list[int]) -> ir.Value | None:
    """Scales or zero points in blocks, which have the axes of the weight."""
    array = qdq.constant(value)
    if value is None or array is None:
        return value
    return add(graph, f"{value.name}.transposed", array.transpose(order), value.dtype)
