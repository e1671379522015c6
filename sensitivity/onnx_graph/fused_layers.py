"""Layers that ONNX Runtime fuses into an operator which can say less than the file does.

QGemm has no scale for its bias: its codes are taken for steps of the input's scale times the
weight's. QLinearConv, QLinearMatMul, MatMulIntegerToFloat and QGemm have no axis: scales of a
weight are taken for those of its outputs. QLinearAveragePool has no dilations. Read from the
optimized graphs of ONNX Runtime 1.31.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.biases import BiasInput, bias_input
from sensitivity.onnx_graph.integer_layers import CUTS, input_scale, quantizer_behind
from sensitivity.onnx_graph.qdq import Array
from sensitivity.onnx_graph.uses import stored_type
from sensitivity.onnx_graph.walk import made_by, read_by

SAME_SCALE = 1e-3
"""Relative difference of two scales that rounding to FP32 or FP16 explains."""

EIGHT_BITS = (np.dtype(np.int8), np.dtype(np.uint8))


@dataclass(frozen=True, eq=False)
class OtherBias:
    """A bias whose scale is ignored.

    node: the layer. reader, index: what adds the bias, the layer or the Add behind it, and which
    input it is. ratio: scale of the bias over that of the input times that of the weight, where
    the two differ most.
    """

    node: ir.Node
    reader: ir.Node
    index: int
    pair: qdq.Pair
    ratio: float


@dataclass(frozen=True, eq=False)
class OtherAxis:
    """A weight whose axis is ignored. wanted, got: axes of the weight as the layer reads it."""

    node: ir.Node
    wanted: int
    got: int


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer that ONNX Runtime may fuse: it has a pair on its weight, and in front a DQ of one
    scale.

    weight: the pair, behind which there may be a Transpose. shape: of the stored weight, () where
    the graph computes it. input_scale: of the DQ in front. bias: the input of the bias, of the
    layer or of the Add behind a MatMul.
    """

    node: ir.Node
    weight: qdq.Pair
    transpose: ir.Node | None
    shape: tuple[int, ...]
    input_scale: float
    bias: BiasInput

    @property
    def weight_scales(self) -> Array:
        """The scales of the weight; empty where the graph computes them."""
        return qdq.scales_of(self.weight.dequantize)

    @property
    def has_add(self) -> bool:
        """Whether an Add behind the layer holds its bias."""
        return self.bias.node is not self.node

    @property
    def has_integer_bias(self) -> bool:
        """Whether the layer has no bias, or one behind a DQ. A float one could not be made an
        integer: such a layer stays in float."""
        bias = self.bias.value
        return bias is None or made_by(bias, "DequantizeLinear") is not None


def _layers(graph: ir.Graph) -> Iterator[_Layer]:
    """Every layer that may be fused, in the order of the graph's nodes."""
    for node in qdq.weighted_nodes(graph):
        value, scale = qdq.weight(node), input_scale(node)
        weight = qdq.through_transpose(value)
        if weight is not None and scale is not None:
            data = qdq.constant(weight.source)
            shape = () if data is None else data.shape
            transpose = made_by(value, "Transpose")
            yield _Layer(node, weight, transpose, shape, scale, bias_input(node))


def biases_of_another_scale(graph: ir.Graph) -> Iterator[OtherBias]:
    """Every Gemm, and MatMul with an Add, that becomes a QGemm with a bias on another scale than
    its own."""
    for layer in _layers(graph):
        pair, place = _integer_bias(layer), layer.bias
        if pair is None or not _becomes_qgemm(layer):
            continue
        ratio = _ratio(layer, pair)
        if abs(ratio - 1) > SAME_SCALE:
            yield OtherBias(layer.node, place.node, place.index, pair, ratio)


def weights_of_another_axis(graph: ir.Graph) -> Iterator[OtherAxis]:
    """Every layer that becomes an integer operator, with weight scales along another axis than its
    outputs."""
    for layer in filter(_forgets_axis, _layers(graph)):
        wanted = qdq.output_axis(layer.node, len(layer.shape))
        got = _scale_axis(layer)
        if got not in (None, wanted):
            yield OtherAxis(layer.node, wanted, got)


def matmuls_of_other_scales(graph: ir.Graph) -> Iterator[ir.Node]:
    """Every MatMul that becomes an integer one with weight scales of a shape that it cannot take:
    several 8-bit blocks along the sum, or a scale per output of a weight of three axes, where it
    also gets the zero points or quantizes its output."""
    for layer in _layers(graph):
        is_direct = layer.node.op_type == "MatMul" and layer.transpose is None
        if is_direct and _has_other_scales(layer) and _forgets_axis(layer):
            yield layer.node


def _has_other_scales(matmul: _Layer) -> bool:
    """Whether the weight of a MatMul has scales of a shape that an integer one cannot take."""
    scales, pair = matmul.weight_scales, matmul.weight
    rank = len(matmul.shape)
    if rank == 0 or scales.size <= 1:
        return False
    if pair.block is not None:
        has_several_blocks = scales.shape[-2:-1] != (1,)
        return has_several_blocks and stored_type(pair).bitwidth == 8
    if rank <= 2 or pair.axis_in(rank) != rank - 1:
        return False
    return pair.zero_point is not None or _quantizer_of(matmul.node) is not None


def dilated_averages(graph: ir.Graph) -> Iterator[ir.Node]:
    """Every AveragePool with dilations that becomes a QLinearAveragePool, ones included."""
    averages = (node for node in graph.all_nodes() if node.op_type == "AveragePool")
    for node in averages:
        if "dilations" in node.attributes and _between_8_bits(node):
            yield node


def _between_8_bits(node: ir.Node) -> bool:
    """Whether an 8-bit pair stands in front of the operation and a Q behind it."""
    quantizer = _quantizer_of(node)
    if quantizer is None or input_scale(node) is None:
        return False
    zero_point = qdq.constant(qdq.zero_point_value(quantizer))
    return zero_point is None or zero_point.dtype in EIGHT_BITS


def _quantizer_of(node: ir.Node) -> ir.Node | None:
    """The Q that takes the output of a layer; None where there is none, or a Relu or Clip keeps the
    two apart."""
    if _stays_in_float(node):
        return None
    return quantizer_behind(node.outputs[0])


def _stays_in_float(node: ir.Node) -> bool:
    """Whether a Relu or Clip follows that no Q behind it replaces: then the layer is not fused."""
    cut = read_by(node.outputs[0], *CUTS)
    if cut is None:
        return False
    users = cut.outputs[0].consumers()
    if any(user.op_type != "QuantizeLinear" for user in users):
        return True
    return cut.op_type == "Relu" and not all(map(cuts_below_zero, users))


def cuts_below_zero(quantize: ir.Node) -> bool:
    """Whether the zero point of a Q is the smallest value of its type, so that it is a Relu too."""
    zero = qdq.constant(qdq.zero_point_value(quantize))
    return zero is None or bool(np.all(zero == np.iinfo(zero.dtype).min))


def _becomes_qgemm(layer: _Layer) -> bool:
    """Whether a Gemm, or a MatMul with its Add, is fused with its int32 bias."""
    attributes = layer.node.attributes
    factors = [attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    has_zero_point = layer.weight.zero_point is not None
    return has_zero_point and factors == [1.0, 1.0] and not _stays_in_float(layer.bias.node)


def _integer_bias(layer: _Layer) -> qdq.Pair | None:
    """The bias of a Gemm, or MatMul with an Add, that is stored as int32."""
    pair = qdq.pair_of(layer.bias.value)
    if pair is None or layer.node.op_type == "Conv":
        return None
    stored = qdq.constant(pair.source)
    if stored is None or stored.dtype != np.int32:
        return None
    return pair


def _ratio(layer: _Layer, bias: qdq.Pair) -> float:
    """Scale of the bias over that which is taken for it, where the two differ most; 1 where one is
    not known, or the counts do not fit."""
    taken = layer.weight_scales.astype(np.float64).ravel() * layer.input_scale
    own = qdq.scales_of(bias.dequantize).astype(np.float64).ravel()
    counts = {1, taken.size, own.size}
    if len(counts) > 2 or 0 in counts:
        return 1.0
    ratios = own / np.maximum(taken, np.finfo(np.float64).tiny)
    return float(ratios[np.argmax(np.abs(ratios - 1))])


def _scale_axis(layer: _Layer) -> int | None:
    """Which axis of the weight the scales run along, as the layer reads it; None where there is one
    scale, or one a block, and where the weight is not known."""
    pair, rank = layer.weight, len(layer.shape)
    if rank == 0 or pair.block is not None:
        return None
    axis = pair.axis_in(rank)
    if layer.transpose is None or axis is None:
        return axis
    order = list(layer.transpose.attributes.get_ints("perm", range(rank)[::-1]))
    return order.index(axis)


def _forgets_axis(layer: _Layer) -> bool:
    """Whether ONNX Runtime makes an operator of the layer that has no axis."""
    match layer.node.op_type:
        case "Conv":
            return layer.has_integer_bias and _quantizer_of(layer.node) is not None
        case "Gemm":
            return _is_square_gemm(layer)
        case "MatMul" if layer.has_add:
            return _adds_no_bias(layer)
        case "MatMul":
            return not _stays_in_float(layer.node)
    return False


def _is_square_gemm(layer: _Layer) -> bool:
    """Whether the count of the scales is that of the outputs, without which no QGemm is made."""
    if layer.transpose is not None or layer.weight.zero_point is None:
        return False
    is_square = len(layer.shape) == 2 and len(set(layer.shape)) == 1
    return is_square and layer.has_integer_bias and not _stays_in_float(layer.node)


def _adds_no_bias(matmul: _Layer) -> bool:
    """Whether the Add behind a MatMul leaves it an integer operator: its other operand is no float
    constant with a value for each output, with which the two become a Gemm in float."""
    bias = qdq.constant(matmul.bias.value)
    return bias is None or bias.size == 1
