"""Finds layers that ONNX Runtime fuses into operators which cannot express all that the file says.

QGemm has no scale for its bias: it takes the bias for integers on the grid of the input's scale
times the weight's. QLinearConv, QLinearMatMul, MatMulIntegerToFloat and QGemm have no axis: they
take the scales of a weight for those of its outputs. QLinearAveragePool has no dilations. Read from
the optimized graphs of ONNX Runtime 1.31.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.biases import BiasInput, bias_input
from sensitivity.onnx_graph.integer_layers import CUTS, input_scale, quantizer_after
from sensitivity.onnx_graph.matching import matches, needed, require
from sensitivity.onnx_graph.qdq import Array
from sensitivity.onnx_graph.uses import stored_type
from sensitivity.onnx_graph.walk import made_by, of_kind, read_by

SAME_SCALE = 1e-3
"""Largest relative difference of two scales that rounding to FP32 or FP16 explains."""

EIGHT_BITS = (np.dtype(np.int8), np.dtype(np.uint8))


@dataclass(frozen=True, eq=False)
class OtherBias:
    """A bias whose scale is ignored.

    node: the layer.
    reader, index: the node that adds the bias, which is the layer or the Add after it, and the
        index of the bias input.
    pair: the pair of the bias.
    ratio: scale of the bias divided by that of the input times that of the weight, where the two
        differ most.
    """

    node: ir.Node
    reader: ir.Node
    index: int
    pair: qdq.Pair
    ratio: float


@dataclass(frozen=True, eq=False)
class OtherAxis:
    """A weight whose axis is ignored.

    node: the layer.
    wanted, got: the axis that the operator assumes and the axis in the file, both of the weight as
        the layer reads it.
    """

    node: ir.Node
    wanted: int
    got: int


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer that ONNX Runtime may fuse: its weight has a pair and its input comes from a DQ with
    one scale.

    weight: the pair.
    transpose: the Transpose between the pair and the layer; None if there is none.
    shape: shape of the stored weight; () if the graph computes it.
    input_scale: scale of the DQ in front.
    bias: the bias input, of the layer or of the Add after a MatMul.
    """

    node: ir.Node
    weight: qdq.Pair
    transpose: ir.Node | None
    shape: tuple[int, ...]
    input_scale: float
    bias: BiasInput

    @property
    def weight_scales(self) -> Array:
        """The scales of the weight; an empty array if the graph computes them."""
        return qdq.scales_of(self.weight.dequantize)

    @property
    def has_add(self) -> bool:
        """Whether an Add after the layer holds its bias."""
        return self.bias.node is not self.node

    @property
    def has_integer_bias(self) -> bool:
        """Whether the layer has no bias, or one after a DQ.

        A float bias could not become an integer one: such a layer stays in float.
        """
        bias = self.bias.value
        return bias is None or made_by(bias, "DequantizeLinear") is not None


def _layers(graph: ir.Graph) -> Iterator[_Layer]:
    """Return every layer that may be fused, in the order of the graph's nodes."""
    return matches(_layer, qdq.weighted_nodes(graph))


def _layer(node: ir.Node) -> _Layer:
    """Return the layer of an operation with a weight. Raises NoMatch if it cannot be fused."""
    value, scale = qdq.weight(node), needed(input_scale(node))
    weight = needed(qdq.through_transpose(value))
    data = qdq.constant(weight.source)
    shape = () if data is None else data.shape
    return _Layer(node, weight, made_by(value, "Transpose"), shape, scale, bias_input(node))


def biases_of_another_scale(graph: ir.Graph) -> Iterator[OtherBias]:
    """Return the bias of every Gemm, and MatMul with an Add, that becomes a QGemm which ignores the
    bias's own scale."""
    return matches(_other_bias, _layers(graph))


def _other_bias(layer: _Layer) -> OtherBias:
    """Return the bias of the layer. Raises NoMatch if its scale is not ignored, or is the one
    assumed."""
    require(layer.node.op_type != "Conv")
    pair = needed(qdq.pair_of(layer.bias.value))
    require(needed(qdq.constant(pair.source)).dtype == np.int32)
    require(_becomes_qgemm(layer))
    ratio = _ratio(layer, pair)
    require(abs(ratio - 1) > SAME_SCALE)
    return OtherBias(layer.node, layer.bias.node, layer.bias.index, pair, ratio)


def weights_of_another_axis(graph: ir.Graph) -> Iterator[OtherAxis]:
    """Return every layer that becomes an integer operator although its weight scales do not run
    along its outputs."""
    return matches(_other_axis, _layers(graph))


def _other_axis(layer: _Layer) -> OtherAxis:
    """Return the axis of the weight's scales.

    Raises NoMatch if it is not ignored, or is the axis of the outputs.
    """
    pair, rank = layer.weight, len(layer.shape)
    require(rank > 0)
    require(pair.block is None)
    got, wanted = needed(pair.axis_in(rank)), qdq.output_axis(layer.node, rank)
    if layer.transpose is not None:
        order = list(layer.transpose.attributes.get_ints("perm", range(rank)[::-1]))
        got = order.index(got)
    require(got != wanted)
    require(_forgets_axis(layer))
    return OtherAxis(layer.node, wanted, got)


def matmuls_of_other_scales(graph: ir.Graph) -> Iterator[ir.Node]:
    """Return every MatMul that becomes an integer one which cannot take the shape of its weight
    scales.

    These are several 8-bit blocks along the summed axis, or a scale per output of a weight with
    three axes or more, if the weight also has zero points or the output is quantized.
    """
    return matches(_matmul_of_other_scales, _layers(graph))


def _matmul_of_other_scales(layer: _Layer) -> ir.Node:
    """Return the MatMul of the layer.

    Raises NoMatch for another operation, and for scales that an integer MatMul can take.
    """
    require(layer.node.op_type == "MatMul")
    require(layer.transpose is None)
    require(len(layer.shape) > 0)
    require(layer.weight_scales.size > 1)
    if layer.weight.block is None:
        _require_vectors(layer)
    else:
        require(stored_type(layer.weight).bitwidth == 8)
        require(layer.weight_scales.shape[-2:-1] != (1,))
    require(_forgets_axis(layer))
    return layer.node


def _require_vectors(matmul: _Layer) -> None:
    """Raise NoMatch unless a MatMul has a weight of three axes or more with a scale per output.

    It must also have zero points or a quantized output.
    """
    rank = len(matmul.shape)
    require(rank > 2)
    require(matmul.weight.axis_in(rank) == rank - 1)
    has_zero_points = matmul.weight.zero_point is not None
    require(has_zero_points or _quantizer_of(matmul.node) is not None)


def dilated_averages(graph: ir.Graph) -> Iterator[ir.Node]:
    """Return every AveragePool with a dilations attribute that becomes a QLinearAveragePool, even
    if all dilations are 1."""
    averages = of_kind(graph.all_nodes(), "AveragePool")
    return filter(_is_integer_dilated, averages)


def _is_integer_dilated(average: ir.Node) -> bool:
    """Return whether an AveragePool has a dilations attribute and becomes a QLinearAveragePool."""
    return "dilations" in average.attributes and _between_8_bits(average)


def _between_8_bits(node: ir.Node) -> bool:
    """Return whether an operation reads a DQ with one scale and an 8-bit Q reads its output."""
    quantizer = _quantizer_of(node)
    if quantizer is None or input_scale(node) is None:
        return False
    zero_point = qdq.constant(qdq.zero_point_value(quantizer))
    return zero_point is None or zero_point.dtype in EIGHT_BITS


def _quantizer_of(node: ir.Node) -> ir.Node | None:
    """Return the Q that reads the output of a layer.

    Returns None if there is no Q, or if a Relu or Clip between the two keeps the layer in float.
    """
    if stays_in_float(node):
        return None
    return quantizer_after(node.outputs[0])


def stays_in_float(node: ir.Node) -> bool:
    """Return whether a Relu or Clip follows that no Q after it replaces, so that the layer is not
    fused."""
    cut = read_by(node.outputs[0], *CUTS)
    if cut is None:
        return False
    users = cut.outputs[0].consumers()
    if any(user.op_type != "QuantizeLinear" for user in users):
        return True
    return cut.op_type == "Relu" and not all(map(cuts_below_zero, users))


def cuts_below_zero(quantize: ir.Node) -> bool:
    """Return whether the zero point of a Q is the smallest value of its type, so that the Q also
    acts as a Relu."""
    zero = qdq.constant(qdq.zero_point_value(quantize))
    return zero is None or bool(np.all(zero == np.iinfo(zero.dtype).min))


def _becomes_qgemm(layer: _Layer) -> bool:
    """Return whether a Gemm, or a MatMul with its Add, is fused with its INT32 bias."""
    attributes = layer.node.attributes
    factors = [attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    has_zero_point = layer.weight.zero_point is not None
    return has_zero_point and factors == [1.0, 1.0] and not stays_in_float(layer.bias.node)


def _ratio(layer: _Layer, bias: qdq.Pair) -> float:
    """Return the scale of the bias divided by the scale assumed for it, where the two differ most.

    Returns 1 if one of them is not known, or if their sizes do not fit.
    """
    taken = layer.weight_scales.astype(np.float64).ravel() * layer.input_scale
    own = qdq.scales_of(bias.dequantize).astype(np.float64).ravel()
    counts = {1, taken.size, own.size}
    if len(counts) > 2 or 0 in counts:
        return 1.0
    ratios = own / np.maximum(taken, np.finfo(np.float64).tiny)
    return float(ratios[np.argmax(np.abs(ratios - 1))])


def _forgets_axis(layer: _Layer) -> bool:
    """Return whether ONNX Runtime turns the layer into an operator without an axis."""
    forgets = FORGETS_AXIS.get(layer.node.op_type)
    return forgets is not None and forgets(layer)


def _is_integer_conv(conv: _Layer) -> bool:
    """Return whether a Conv becomes a QLinearConv."""
    return conv.has_integer_bias and _quantizer_of(conv.node) is not None


def _is_square_gemm(layer: _Layer) -> bool:
    """Return whether a Gemm with a square weight becomes a QGemm.

    Scales along the other axis are only taken for those of the outputs if their numbers are equal.
    """
    has_zero_point = layer.weight.zero_point is not None
    is_square = len(layer.shape) == 2 and len(set(layer.shape)) == 1
    if layer.transpose is not None:
        return False
    becomes_integer = has_zero_point and layer.has_integer_bias
    return is_square and becomes_integer and not stays_in_float(layer.node)


def _is_integer_matmul(matmul: _Layer) -> bool:
    """Return whether a MatMul becomes an integer operator of its own.

    With an Add after it, it does so unless the other operand of the Add is a float constant with
    several values: the two then become a Gemm in float.
    """
    if not matmul.has_add:
        return not stays_in_float(matmul.node)
    bias = qdq.constant(matmul.bias.value)
    return bias is None or bias.size == 1


FORGETS_AXIS = {
    "Conv": _is_integer_conv,
    "Gemm": _is_square_gemm,
    "MatMul": _is_integer_matmul,
}
"""Operation -> whether ONNX Runtime turns a layer of it into an operator without an axis."""
