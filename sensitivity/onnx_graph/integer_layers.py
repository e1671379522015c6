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
from sensitivity.onnx_graph.uses import BIAS_INPUT
from sensitivity.onnx_graph.walk import first_input, given, made_by, only_user, source

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
        if scale is None or self.bias is None:
            return None
        is_known = np.isfinite(self.input_scale) and self.input_scale > 0
        if not is_known or not self._has_scale_of_bias(scale, self.bias):
            return None
        needed = np.abs(self.bias) / LARGEST / self.input_scale
        return np.reshape(needed.max() if scale.size == 1 else needed, scale.shape)

    def _has_scale_of_bias(self, scale: Array, bias: Array) -> bool:
        """Whether there is one weight scale, or one for each value of the bias."""
        return scale.size in (1, bias.size) and self._along_channels()

    def _along_channels(self) -> bool:
        data = qdq.constant(self.weight.source) if self.weight is not None else None
        if self.weight is None or data is None:
            return False
        axis = self.weight.axis_in(data.ndim)
        return axis is None or axis == qdq.output_axis(self.node, data.ndim)


def integer_layers(graph: ir.Graph) -> Iterator[IntegerLayer]:
    """Every layer that ONNX Runtime makes an integer kernel of, in the order of the graph's
    nodes."""
    for node in qdq.weighted_nodes(graph):
        layer = _integer_layer(node)
        if layer is not None:
            yield layer


def _integer_layer(node: ir.Node) -> IntegerLayer | None:
    weight = qdq.pair_of(qdq.weight(node))
    end, scale = _with_bias(node), input_scale(node)
    if weight is None and qdq.constant(qdq.weight(node)) is None:
        return None
    if end is None or scale is None:
        return None
    output = quantized_output(end.value)
    return None if output is None else IntegerLayer(node, scale, weight, end.bias, output)


def moved_int8(model: ir.Model) -> Iterator[ir.Node]:
    """Operations that move an int8 activation behind its pair, in a file that ONNX Runtime
    therefore cannot load.

    From opset 21 on it puts a pair behind them that is int8 by one attribute and uint8 by its zero
    point; not where what follows is a Q already.
    """
    if model.opset_imports.get("", 0) < 21:
        return
    for pair in qdq.pairs(model.graph):
        if pair.quantize is not None and not pair.of_weight and _is_int8_per_tensor(pair):
            yield from filter(_gets_a_pair, pair.output.consumers())


def _is_int8_per_tensor(pair: qdq.Pair) -> bool:
    zero = pair.zero_point
    return zero is not None and zero.dtype == np.int8 and zero.size == 1


def _gets_a_pair(node: ir.Node) -> bool:
    """Whether ONNX Runtime puts a pair behind this operation, where one stands in front."""
    moves = node.op_type in PASSED_BY - {"Identity"}
    return moves and not _only_to_quantizers(node.outputs[0])


def _only_to_quantizers(value: ir.Value) -> bool:
    users = value.consumers()
    return bool(users) and all(user.op_type == "QuantizeLinear" for user in users)


def input_scale(node: ir.Node) -> float | None:
    """The scale of the DQ that the layer reads; None where there is no such DQ, or it has several
    scales."""
    before_movers = source(first_input(node), lambda mover: mover.op_type in PASSED_BY)
    dequantize = made_by(before_movers, "DequantizeLinear")
    return qdq.only_number(qdq.constant(given(dequantize, 1)))


@dataclass(frozen=True, eq=False)
class _End:
    """What a layer gives, its bias included. bias: float64[channels]; None where it has none."""

    value: ir.Value
    bias: Array | None


def _with_bias(node: ir.Node) -> _End | None:
    """The end of a layer; None where its bias is no constant with one value a channel."""
    if node.op_type == "MatMul":
        return _with_added_bias(node)
    value = given(node, BIAS_INPUT)
    if value is None:
        return _End(node.outputs[0], None)
    return _end(node, qdq.constant(value))


def _with_added_bias(matmul: ir.Node) -> _End | None:
    """A MatMul counts with the Add behind it: ONNX Runtime makes one Gemm of the two."""
    add = only_user(matmul.outputs[0])
    if add is None or add.op_type != "Add":
        return None
    constants = [array for array in map(qdq.constant, add.inputs) if array is not None]
    return _end(add, constants[0]) if len(constants) == 1 else None


def _end(last: ir.Node, bias: Array | None) -> _End | None:
    if bias is None or bias.ndim != 1:
        return None
    return _End(last.outputs[0], bias.astype(np.float64))


def quantized_output(value: ir.Value) -> ir.Value | None:
    """What the Q behind a layer reads; None where its output goes anywhere else too."""
    while (user := only_user(value)) is not None:
        if user.op_type == "QuantizeLinear":
            return value
        if user.op_type not in CUTS | PASSED_BY:
            return None
        value = user.outputs[0]
    return None
