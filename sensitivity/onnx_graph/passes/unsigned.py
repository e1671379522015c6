"""Signed activations as unsigned ones, for runtimes whose fast or correct kernels want uint8."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.sign import non_negative


class UnsignedActivations(ir.passes.InPlacePass):
    """Turn int8 activations into uint8 with a zero point that is 128 more: the same grid, the same
    values.

    zero_point_0: give tensors that cannot be negative, and whose zero point is 0, the zero point 0
    with the same scale. Their values below amax stay the same; values above it are clipped at twice
    amax. Weights stay signed.
    """

    def __init__(self, *, zero_point_0: bool) -> None:
        self.zero_point_0 = zero_point_0

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in [node for node in model.graph.all_nodes() if node.op_type == "QuantizeLinear"]:
            source, zero_point = node.inputs[0], qdq.constant(qdq.zero_point_value(node))
            if source is None or qdq.constant(source) is not None or zero_point is None:
                continue
            if zero_point.dtype != np.int8:
                continue
            from_0 = self.zero_point_0 and not zero_point.any() and non_negative(source)
            shifted = zero_point.astype(np.int16) + (0 if from_0 else 128)
            value = _zero_point(model.graph, node, shifted.astype(np.uint8))
            readers = [
                user for user in node.outputs[0].consumers() if user.op_type == "DequantizeLinear"
            ]
            for user in (node, *readers):
                user.replace_input_with(2, value)
            node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _zero_point(graph: ir.Graph, node: ir.Node, shifted: np.ndarray) -> ir.Value:
    value = qdq.zero_point_value(node)
    name = value.name if value is not None and value.name else "zero_point"
    return add(graph, f"{name}.unsigned", shifted)
