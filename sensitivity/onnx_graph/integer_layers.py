"""What ONNX Runtime quantizes on its own account while it loads a Q/DQ file.

A Conv, ConvTranspose or Gemm between a DQ and a Q is made an integer kernel. Such a kernel adds an
int32 bias whose scale is that of the input times that of the weight: a float bias is put on that
grid, whether it fits or not. A float weight is put on 8 bits, one scale for the whole tensor. Read
from weight_bias_quantization.cc, qdq_propagation.cc and the optimized graphs of ONNX Runtime 1.31.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.qdq import Array

PASSED_BY = {"MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity"}
"""Operations that a DQ is moved behind, and a Q in front of."""

CUTS = {"Relu", "Clip"}
"""What may stand between the layer and its Q."""

LARGEST = float(np.iinfo(np.int32).max)
MARGIN = 1.0001
"""On top of the smallest scale that a bias fits in, as ONNX Runtime's own quantizer takes it."""


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A layer that ONNX Runtime computes in integers.

    input_scale: of the DQ in front. weight: its pair; None for a float weight. bias:
    float64[channels]; None where there is none, or it is no float constant. output: the value that
    the Q behind it reads, perhaps through operations that only move values.
    """

    node: ir.Node
    input_scale: float
    weight: qdq.Pair | None
    bias: Array | None
    output: ir.Value

    def smallest_weight_scale(self) -> Array | None:
        """The weight scales under which the bias no longer fits int32, in the shape of the weight's
        scale.

        None where the layer has no bias, or no weight scale that is known.
        """
        scale = self.weight.scale if self.weight is not None else None
        if (
            scale is None
            or self.bias is None
            or scale.size not in (1, self.bias.size)
            or not self._along_channels()
        ):
            return None
        if not (np.isfinite(self.input_scale) and self.input_scale > 0):
            return None
        needed = np.abs(self.bias) / LARGEST / self.input_scale
        return np.reshape(needed.max() if scale.size == 1 else needed, scale.shape)

    def _along_channels(self) -> bool:
        data = qdq.constant(self.weight.source) if self.weight is not None else None
        if self.weight is None or data is None:
            return False
        return self.weight.axis is None or self.weight.axis % data.ndim == qdq.output_axis(
            self.node, data.ndim
        )


def integer_layers(graph: ir.Graph) -> Iterator[IntegerLayer]:
    """Every layer that ONNX Runtime makes an integer kernel of, in the order of the graph's
    nodes."""
    for node in qdq.weighted_nodes(graph):
        scale = _input_scale(node)
        last, bias = _with_bias(node)
        output = _quantized_output(last) if last is not None else None
        weight = qdq.pair_of(qdq.weight(node))
        stored = weight is not None or qdq.constant(qdq.weight(node)) is not None
        if scale is not None and output is not None and stored:
            yield IntegerLayer(node, scale, weight, bias, output)


def moved_int8(model: ir.Model) -> Iterator[ir.Node]:
    """Operations that move an int8 activation behind its pair, in a file that ONNX Runtime
    therefore cannot load.

    From opset 21 on it puts a pair behind them that is int8 by one attribute and uint8 by its zero
    point; not where what follows is a Q already.
    """
    if model.opset_imports.get("", 0) < 21:
        return
    for pair in qdq.pairs(model.graph):
        zero = pair.zero_point
        if (
            pair.quantize is None
            or pair.of_weight
            or zero is None
            or zero.dtype != np.int8
            or zero.size != 1
        ):
            continue
        for user in pair.output.consumers():
            if user.op_type in PASSED_BY - {"Identity"} and not _only_to_quantizers(
                user.outputs[0]
            ):
                yield user


def _only_to_quantizers(value: ir.Value) -> bool:
    users = value.consumers()
    return bool(users) and all(user.op_type == "QuantizeLinear" for user in users)


def _input_scale(node: ir.Node) -> float | None:
    """The scale of the DQ that the layer reads; None where there is no such DQ, or it has several
    scales."""
    value = qdq.activation(node)
    while value is not None and (before := value.producer()) is not None:
        if before.op_type == "DequantizeLinear":
            scale = qdq.constant(before.inputs[1])
            return float(scale.reshape(())) if scale is not None and scale.size == 1 else None
        value = before.inputs[0] if before.op_type in PASSED_BY else None
    return None


def _with_bias(node: ir.Node) -> tuple[ir.Value | None, Array | None]:
    """(what the layer gives, its bias). A MatMul counts with the Add behind it: the two are made
    one Gemm."""
    if node.op_type != "MatMul":
        given = node.inputs[2] if len(node.inputs) > 2 else None
        bias = qdq.constant(given)
        known = given is None or (bias is not None and bias.ndim == 1)
        return (node.outputs[0] if known else None), None if bias is None else bias.astype(
            np.float64
        )
    user = _only_user(node.outputs[0])
    terms = (
        [found for value in user.inputs if (found := qdq.constant(value)) is not None]
        if user
        else []
    )
    if user is None or user.op_type != "Add" or len(terms) != 1 or terms[0].ndim != 1:
        return None, None
    return user.outputs[0], terms[0].astype(np.float64)


def _quantized_output(value: ir.Value) -> ir.Value | None:
    """What the Q behind a layer reads; None where its output goes anywhere else too."""
    while (user := _only_user(value)) is not None:
        if user.op_type == "QuantizeLinear":
            return value
        if user.op_type not in CUTS | PASSED_BY:
            return None
        value = user.outputs[0]
    return None


def _only_user(value: ir.Value) -> ir.Node | None:
    users = value.consumers()
    return users[0] if len(users) == 1 else None
