"""Weights as the float values that their Q/DQ pair gives, for operations that are computed in float
anyway."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.levels import along
from sensitivity.onnx_graph.passes.initializers import add

ANY_OUTPUT = {"MatMul"}
"""Integer kernels of ONNX Runtime that give float where asked to."""


class FloatWeights(ir.passes.InPlacePass):
    """Compute Q/DQ of a weight now where the operation's output is not quantized. No value
    changes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(qdq.weighted_nodes(model.graph)):
            value = qdq.weight(node)
            pair = qdq.pair_of(value)
            if pair is None or node.op_type in ANY_OUTPUT or output_is_quantized(node):
                continue
            weight = dequantized(pair)
            if weight is not None:
                name = f"{pair.source.name}.dequantized"
                node.replace_input_with(
                    qdq.WEIGHT_INPUT[node.op_type], add(model.graph, name, weight)
                )
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def dequantized(pair: qdq.Pair) -> np.ndarray | None:
    """What a weight pair gives; None where it is not symmetric int8 from a float constant."""
    found = qdq.quantized_constant(pair)
    if found is None:
        return None
    weight, scale, zero_point = found
    if zero_point.dtype != np.int8 or zero_point.any():
        return None
    shaped = along(scale, pair.axis, weight.ndim)
    levels = np.clip(np.rint(weight / shaped), -128, 127)
    result: np.ndarray = (levels * shaped).astype(weight.dtype)
    return result


def output_is_quantized(node: ir.Node) -> bool:
    """Whether the output, or that of a Relu behind it, goes to quantizers only."""
    if node.op_type == "ConvTranspose":
        return False
    value = qdq.behind_relu(node.outputs[0])
    return {user.op_type for user in value.consumers()} == {"QuantizeLinear"}
