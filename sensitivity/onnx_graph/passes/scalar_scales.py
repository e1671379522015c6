"""Writes scales of activations as scalars if the file has them as vectors of one element."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add, remove_constant
from sensitivity.onnx_graph.walk import graph_of, input_at

SCALE, ZERO_POINT = 1, 2
"""Indices of inputs of Q and DQ."""


class ScalarScales(ir.passes.InPlacePass):
    """Turns scale and zero point of shape [1] of every activation's Q and DQ into scalars of the
    same value.

    ONNX allows both. TensorRT-RTX 1.7.1 takes shape [1] for a scale per channel, and runs the
    convolution after it in float. Weights are left as they are, and so are blocks, whose scales
    have the rank of what they quantize.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = list(filter(has_vector_scale, model.graph.all_nodes()))
        scalars = _Scalars()
        for node in nodes:
            node.attributes.pop("axis", None)
            for index in SCALE, ZERO_POINT:
                value = input_at(node, index)
                if value is not None and _is_vector_of_one(value):
                    node.replace_input_with(index, scalars[graph_of(node), value])
        for _, value in scalars:
            remove_constant(value)
        return ir.passes.PassResult(model, modified=bool(nodes))


class _Scalars(dict[tuple[ir.Graph, ir.Value], ir.Value]):
    """Graph and vector of one element -> the scalar of the same value, added to that graph on first
    use."""

    def __missing__(self, place: tuple[ir.Graph, ir.Value]) -> ir.Value:
        graph, value = place
        self[place] = add(graph, f"{value.name}.scalar", qdq.known(value).reshape(()))
        return self[place]


def has_vector_scale(node: ir.Node) -> bool:
    """Return whether this is a Q or DQ of an activation with one scale, stored as a vector."""
    if node.op_type not in qdq.PAIR:
        return False
    data, scale = node.inputs[0], node.inputs[SCALE]
    has_blocks = "block_size" in node.attributes
    of_activation = not qdq.rooted_at_constant(data)
    return of_activation and not has_blocks and _is_vector_of_one(scale)


def _is_vector_of_one(value: ir.Value | None) -> bool:
    constant = qdq.constant(value)
    return constant is not None and constant.shape == (1,)
