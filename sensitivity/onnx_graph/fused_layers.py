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
from sensitivity.onnx_graph.integer_layers import CUTS, input_scale, quantized_output
from sensitivity.onnx_graph.qdq import Array
from sensitivity.onnx_graph.uses import BIAS_INPUT, stored_type
from sensitivity.onnx_graph.walk import given, made_by, only_user

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


def biases_of_another_scale(graph: ir.Graph) -> Iterator[OtherBias]:
    """Every Gemm, and MatMul with an Add, that becomes a QGemm with a bias on another scale than
    its own."""
    for node in qdq.weighted_nodes(graph):
        pair = _integer_bias(node)
        if pair is None or not _becomes_qgemm(node):
            continue
        ratio = _ratio(node, pair)
        if ratio is not None and abs(ratio - 1) > SAME_SCALE:
            reader, index = _bias_place(node)
            yield OtherBias(node, reader, index, pair, ratio)


def weights_of_another_axis(graph: ir.Graph) -> Iterator[OtherAxis]:
    """Every layer that becomes an integer operator, with weight scales along another axis than its
    outputs."""
    for node in qdq.weighted_nodes(graph):
        other = _other_axis(node)
        if other is not None and _forgets_axis(node):
            yield other


def matmuls_of_other_scales(graph: ir.Graph) -> Iterator[ir.Node]:
    """Every MatMul that becomes an integer one with weight scales of a shape that it cannot take:
    several 8-bit blocks along the sum, or a scale per output of a weight of three axes, where it
    also gets the zero points or quantizes its output."""
    for node in qdq.weighted_nodes(graph):
        pair = qdq.pair_of(qdq.weight(node)) if node.op_type == "MatMul" else None
        if pair is not None and _has_other_scales(node, pair) and _forgets_axis(node):
            yield node


def _has_other_scales(matmul: ir.Node, pair: qdq.Pair) -> bool:
    data, scale = qdq.constant(pair.source), pair.scale
    if data is None or scale is None or scale.size == 1:
        return False
    if pair.block is None:
        along_outputs = pair.axis_in(data.ndim) == data.ndim - 1
        has_vectors = pair.zero_point is not None or _quantizer_behind(matmul) is not None
        return data.ndim > 2 and along_outputs and has_vectors
    is_8_bits = stored_type(pair).bitwidth == 8
    return is_8_bits and scale.shape[-2:-1] != (1,)


def dilated_averages(graph: ir.Graph) -> Iterator[ir.Node]:
    """Every AveragePool with dilations that becomes a QLinearAveragePool, ones included."""
    for node in graph.all_nodes():
        is_dilated = node.op_type == "AveragePool" and "dilations" in node.attributes
        if is_dilated and _between_8_bits(node):
            yield node


def _between_8_bits(node: ir.Node) -> bool:
    """Whether an 8-bit pair stands in front of the operation and a Q behind it."""
    scale = input_scale(node)
    zero_point = qdq.constant(given(_quantizer_behind(node), 2))
    is_8_bits = zero_point is None or zero_point.dtype in EIGHT_BITS
    return scale is not None and _quantizer_behind(node) is not None and is_8_bits


def _quantizer_behind(node: ir.Node) -> ir.Node | None:
    """The Q that takes the output of a layer; None where there is none, or a Relu or Clip keeps the
    two apart."""
    value = quantized_output(node.outputs[0])
    return None if value is None or _stays_in_float(node) else only_user(value)


def _stays_in_float(node: ir.Node) -> bool:
    """Whether a Relu or Clip follows that no Q behind it replaces: then the layer is not fused."""
    cut = only_user(node.outputs[0])
    if cut is None or cut.op_type not in CUTS:
        return False
    users = cut.outputs[0].consumers()
    quantizers = [user for user in users if user.op_type == "QuantizeLinear"]
    if len(quantizers) < len(users):
        return True
    return cut.op_type == "Relu" and not all(map(cuts_below_zero, quantizers))


def cuts_below_zero(quantize: ir.Node) -> bool:
    """Whether the zero point of a Q is the smallest value of its type, so that it is a Relu too."""
    zero = qdq.constant(qdq.zero_point_value(quantize))
    return zero is None or bool(np.all(zero == np.iinfo(zero.dtype).min))


def _becomes_qgemm(node: ir.Node) -> bool:
    """Whether a Gemm, or a MatMul with its Add, is fused with its int32 bias."""
    last, _ = _bias_place(node)
    weight = qdq.through_transpose(qdq.weight(node))
    if weight is None or weight.zero_point is None or input_scale(node) is None:
        return False
    factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    return factors == [1.0, 1.0] and not _stays_in_float(last)


def _bias_place(node: ir.Node) -> tuple[ir.Node, int]:
    """What adds the bias of a layer, and which of its inputs the bias is. A MatMul and its Add are
    made one Gemm."""
    add = _add_behind(node)
    if add is None:
        return node, BIAS_INPUT
    return add, 1 if add.inputs[0] is node.outputs[0] else 0


def _add_behind(node: ir.Node) -> ir.Node | None:
    user = only_user(node.outputs[0]) if node.op_type == "MatMul" else None
    return user if user is not None and user.op_type == "Add" else None


def _bias(node: ir.Node) -> ir.Value | None:
    """What a layer adds to its sum; None where it has no bias."""
    reader, index = _bias_place(node)
    return given(reader, index)


def _integer_bias(node: ir.Node) -> qdq.Pair | None:
    """The bias of a Gemm, or MatMul with an Add, that is stored as int32."""
    pair = None if node.op_type == "Conv" else qdq.pair_of(_bias(node))
    stored = None if pair is None else qdq.constant(pair.source)
    return pair if stored is not None and stored.dtype == np.int32 else None


def _ratio(node: ir.Node, bias: qdq.Pair) -> float | None:
    """Scale of the bias over that which is taken for it; None where one is not known, or the counts
    do not fit."""
    weight = qdq.through_transpose(qdq.weight(node))
    scales = None if weight is None else weight.scale
    front = input_scale(node)
    if scales is None or bias.scale is None or front is None:
        return None
    taken = _flat(scales) * front
    own = _flat(bias.scale)
    if min(taken.size, own.size) != 1 and taken.size != own.size:
        return None
    ratios = own / np.maximum(taken, np.finfo(np.float64).tiny)
    return float(ratios[np.argmax(np.abs(ratios - 1))])


def _flat(scale: Array) -> Array:
    return scale.astype(np.float64).ravel()


def _other_axis(node: ir.Node) -> OtherAxis | None:
    """Where the scales of a weight lie, if not along the outputs; blocks are none of this."""
    value = qdq.weight(node)
    pair = qdq.through_transpose(value)
    data = None if pair is None else qdq.constant(pair.source)
    if pair is None or data is None or pair.axis is None or pair.block is not None:
        return None
    axis = pair.axis_in(data.ndim)
    transpose = made_by(value, "Transpose")
    if transpose is not None and axis is not None:
        axis = _moved(transpose, axis, data.ndim)
    wanted = qdq.output_axis(node, data.ndim)
    return None if axis is None or axis == wanted else OtherAxis(node, wanted, axis)


def _moved(transpose: ir.Node, axis: int, rank: int) -> int:
    """Where an axis lies behind a Transpose."""
    order = list(transpose.attributes.get_ints("perm", range(rank)[::-1]))
    return order.index(axis)


def _forgets_axis(node: ir.Node) -> bool:
    """Whether ONNX Runtime makes an operator of the layer that has no axis."""
    if input_scale(node) is None:
        return False
    match node.op_type:
        case "Conv":
            return _bias_is_integer(node) and _quantizer_behind(node) is not None
        case "Gemm":
            return _is_square_gemm(node)
        case "MatMul" if _add_behind(node) is not None:
            return _adds_no_bias(node)
        case "MatMul":
            return not _stays_in_float(node)
    return False


def _bias_is_integer(node: ir.Node) -> bool:
    """Whether the layer has no bias, or one behind a DQ. A float one could not be made an integer:
    such a layer stays in float."""
    bias = _bias(node)
    return bias is None or made_by(bias, "DequantizeLinear") is not None


def _is_square_gemm(node: ir.Node) -> bool:
    """Whether the count of the scales is that of the outputs, without which no QGemm is made."""
    weight = qdq.pair_of(qdq.weight(node))
    data = None if weight is None else qdq.constant(weight.source)
    if weight is None or data is None or weight.zero_point is None:
        return False
    is_square = data.ndim == 2 and data.shape[0] == data.shape[1]
    return is_square and _bias_is_integer(node) and not _stays_in_float(node)


def _adds_no_bias(matmul: ir.Node) -> bool:
    """Whether the Add behind a MatMul leaves it an integer operator: its other operand is no float
    constant with a value for each output, with which the two become a Gemm in float."""
    bias = qdq.constant(_bias(matmul))
    return bias is None or bias.size == 1
