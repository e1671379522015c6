"""Scales of activations as scalars, where the file has them as vectors of one element."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add, remove_constant
from sensitivity.onnx_graph.walk import graph_of


class ScalarScales(ir.passes.InPlacePass):
    """Turn scale and zero point of shape [1] of every activation's Q and DQ into scalars: the same
    values.

    ONNX allows both; TensorRT-RTX 1.7.1 takes shape [1] for a scale per channel, and runs the
    convolution behind it in float. Weights are left as they are, and so are blocks, whose scales
    have the rank of what they quantize.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph.all_nodes() if has_vector_scale(node)]
        scalars: dict[tuple[ir.Graph | None, ir.Value], ir.Value] = {}
        for node in nodes:
            node.attributes.pop("axis", None)
            for index, value in enumerate(node.inputs):
                if index == 0 or value is None or not _is_vector_of_one(value):
                    continue
                place = (node.graph, value)
                if place not in scalars:
                    scalars[place] = _scalar(node, value)
                node.replace_input_with(index, scalars[place])
        for _, value in scalars:
            remove_constant(value)
        return ir.passes.PassResult(model, modified=bool(nodes))


def has_vector_scale(node: ir.Node) -> bool:
    """Whether this is a Q or DQ of an activation whose one scale is a vector of one element."""
    if node.op_type not in qdq.PAIR or "block_size" in node.attributes:
        return False
    data, scale = node.inputs[0], node.inputs[1]
    of_weight = data is None or qdq.rooted_at_constant(data)
    return not of_weight and scale is not None and _is_vector_of_one(scale)


def _is_vector_of_one(value: ir.Value) -> bool:
    constant = qdq.constant(value)
    return constant is not None and constant.shape == (1,)


def _scalar(node: ir.Node, value: ir.Value) -> ir.Value:
    return add(graph_of(node), f"{value.name}.scalar", qdq.known(value).reshape(()))
