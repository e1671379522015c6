"""Q/DQ on what integer kernels give, where canonical files quantize only what they take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.one_pair_per_value import ELEMENTWISE

SAME_GRID = {
    "MaxPool", "Resize", "Split", "Slice", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze",
}  # fmt: skip
"""Operations whose output has the values of their input: they keep its scale."""

WITH_OUTPUT = {"Conv", "Gemm", "MatMul"}


class QuantizeOutputs(ir.passes.InPlacePass):
    """Quantize outputs of quantized operations, symmetric int8, where a quantized layer comes later.

    ranges: smallest and largest value by value name; values without a range are left alone. Behind the last quantized
    layer nothing is quantized: what the model gives keeps its precision.
    """

    def __init__(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        self.ranges = ranges

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        before = _before_quantized(model.graph)
        modified = False
        for node in list(model.graph.all_nodes()):
            if not _computes_in_integers(node):
                continue
            for output in node.outputs:
                value = _after_relu(output)
                if value in before and not value.is_graph_output() and not _pairs_on(value):
                    modified |= self._quantize(model.graph, node, value)
        return ir.passes.PassResult(model, modified=modified)

    def _quantize(self, graph: ir.Graph, node: ir.Node, value: ir.Value) -> bool:
        scale = self._scale(node, value)
        if scale is None or not value.uses():
            return False
        scale_value = add(graph, f"{value.name}.scale", np.array(scale, np.float32))
        zero_point = add(graph, f"{value.name}.zero_point", np.array(0, np.int8))
        users = [use for use in value.uses() if use.node.op_type in ELEMENTWISE]
        if not users:
            return False
        quantize = ir.node("QuantizeLinear", [value, scale_value, zero_point], name=f"{value.name}/QuantizeLinear")
        dequantize = ir.node(
            "DequantizeLinear",
            [quantize.outputs[0], scale_value, zero_point],
            name=f"{value.name}/DequantizeLinear",
        )
        dequantize.outputs[0].type, dequantize.outputs[0].shape = value.type, value.shape
        producer = value.producer()
        assert producer is not None
        graph.insert_after(producer, [quantize, dequantize])
        for use in users:
            use.node.replace_input_with(use.idx, dequantize.outputs[0])
        return True

    def _scale(self, node: ir.Node, value: ir.Value) -> float | None:
        if node.op_type in SAME_GRID:
            pair = qdq.pair_of(node.inputs[0])
            return None if pair is None or pair.scale is None else float(pair.scale.max())
        low, high = self.ranges.get(value.name or "", (0.0, 0.0))
        largest = max(abs(low), abs(high))
        return largest / 127 if np.isfinite(largest) and largest > 1e-30 else None


def _computes_in_integers(node: ir.Node) -> bool:
    if qdq.weight(node) is not None:
        return node.op_type in WITH_OUTPUT and all(qdq.pair_of(value) is not None for value in node.inputs[:2])
    activations = [value for value in node.inputs if value is not None and not qdq.rooted_at_constant(value)]
    if node.op_type in {"Resize", "Slice", "Reshape"}:
        activations = activations[:1]
    return node.op_type in ELEMENTWISE and all(qdq.pair_of(value) is not None for value in activations)


def _after_relu(value: ir.Value) -> ir.Value:
    """Runtimes compute a Relu within the operation before it: the value to quantize is what it gives."""
    users = value.consumers()
    return users[0].outputs[0] if len(users) == 1 and users[0].op_type == "Relu" else value


def _pairs_on(value: ir.Value) -> bool:
    return any(user.op_type == "QuantizeLinear" for user in value.consumers())


def _before_quantized(graph: ir.Graph) -> set[ir.Value]:
    """Values from which a quantized weighted operation is reached."""
    found: set[ir.Value] = set()
    ready = [node for node in qdq.weighted_nodes(graph) if qdq.pair_of(node.inputs[0]) is not None]
    while ready:
        node = ready.pop()
        for value in node.inputs:
            if value is not None and value not in found:
                found.add(value)
                producer = value.producer()
                if producer is not None:
                    ready.append(producer)
    return found
