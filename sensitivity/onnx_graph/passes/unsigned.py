"""Signed activations as unsigned ones, for runtimes whose fast or correct kernels want uint8."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.sign import non_negative


class UnsignedActivations(ir.passes.InPlacePass):
    """Turn int8 activations with zero point 0 into uint8 with zero point 128: the same grid, the same values.

    zero_point_0: give tensors that cannot be negative the zero point 0 with the same scale. Their values below amax
    stay the same; values above it are clipped at twice amax. Weights stay signed.
    """

    def __init__(self, *, zero_point_0: bool) -> None:
        self.zero_point_0 = zero_point_0

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in [node for node in model.graph.all_nodes() if node.op_type == "QuantizeLinear"]:
            source, zero_point = node.inputs[0], qdq.constant(qdq.zero_point_value(node))
            if source is None or qdq.constant(source) is not None or zero_point is None:
                continue
            if zero_point.dtype != np.int8 or zero_point.any():
                continue
            offset = 0 if self.zero_point_0 and non_negative(source) else 128
            value = _zero_point(model.graph, node, zero_point, offset)
            readers = [user for user in node.outputs[0].consumers() if user.op_type == "DequantizeLinear"]
            for user in (node, *readers):
                user.replace_input_with(2, value)
            node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _zero_point(graph: ir.Graph, node: ir.Node, old: np.ndarray, offset: int) -> ir.Value:
    value = qdq.zero_point_value(node)
    name = value.name if value is not None and value.name else "zero_point"
    return add(graph, f"{name}.unsigned", np.full(old.shape, offset, np.uint8))
