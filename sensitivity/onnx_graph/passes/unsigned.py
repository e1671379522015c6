"""Signed activations as unsigned ones, for runtimes whose fast or correct kernels want uint8."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.sign import non_negative
from sensitivity.onnx_graph.walk import value_name

LARGEST_LEVEL = np.iinfo(np.int8).max
BEYOND = 1.1
"""How far a range may go beyond the largest level. Ranges are taken from the quantized model, whose
values go a few per cent further than those of the float model that amax is of."""


class UnsignedActivations(ir.passes.InPlacePass):
    """Turn int8 activations into uint8 with a zero point that is 128 more: the same grid, the same
    values.

    zero_point_0: give tensors that cannot be negative, and whose zero point is 0, the zero point 0
    with the same scale. Their values below amax stay the same; values above it are clipped at twice
    amax. Weights stay signed.
    ranges: smallest and largest value by value name; the zero point 0 is then given only where they
    end about where the grid does, so that clipping later changes next to nothing. None: wherever
    the sign allows.
    """

    def __init__(
        self, *, zero_point_0: bool, ranges: Mapping[str, tuple[float, float]] | None = None
    ) -> None:
        self.zero_point_0, self.ranges = zero_point_0, ranges

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        quantizes = [node for node in model.graph.all_nodes() if node.op_type == "QuantizeLinear"]
        changed = [self._made_unsigned(model.graph, node) for node in quantizes]
        return ir.passes.PassResult(model, modified=any(changed))

    def _made_unsigned(self, graph: ir.Graph, quantize: ir.Node) -> bool:
        """Change a Q of an int8 activation, and the DQs behind it; False where it is none."""
        source, zero_point = quantize.inputs[0], qdq.constant(qdq.zero_point_value(quantize))
        if source is None or zero_point is None:
            return False
        is_weight = qdq.constant(source) is not None
        if is_weight or zero_point.dtype != np.int8:
            return False
        keeps_0 = (
            self.zero_point_0
            and not zero_point.any()
            and non_negative(source)
            and self._ends_within(source, qdq.constant(quantize.inputs[1]))
        )
        shifted = zero_point.astype(np.int16) + (0 if keeps_0 else 128)
        value = _zero_point(graph, quantize, shifted.astype(np.uint8))
        output = quantize.outputs[0]
        quantize.replace_input_with(2, value)
        for user in output.consumers():
            if user.op_type == "DequantizeLinear":
                user.replace_input_with(2, value)
        output.type = ir.TensorType(ir.DataType.UINT8)
        return True

    def _ends_within(self, value: ir.Value, scale: np.ndarray | None) -> bool:
        """Whether the largest level of int8 is about as far as the value's range goes."""
        if self.ranges is None:
            return True
        known = self.ranges.get(value_name(value))
        if known is None or scale is None:
            return False
        return known[1] <= BEYOND * LARGEST_LEVEL * float(scale.min())


def _zero_point(graph: ir.Graph, node: ir.Node, shifted: np.ndarray) -> ir.Value:
    name = value_name(qdq.zero_point_value(node)) or "zero_point"
    return add(graph, f"{name}.unsigned", shifted)
