"""Finds what ONNX Runtime quantizes by itself while it loads a Q/DQ file.

A Conv, ConvTranspose or Gemm between a DQ and a Q becomes an integer kernel. Such a kernel adds an
INT32 bias whose scale is that of the input times that of the weight: a float bias is put on this
grid, whether it fits or not. A float weight is quantized to 8 bits with one scale for the whole
tensor. Read from weight_bias_quantization.cc, qdq_propagation.cc and the optimized graphs of ONNX
Runtime 1.31.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import filterfalse

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.biases import bias_input
from sensitivity.onnx_graph.matching import match_or_none, matches, needed, require
from sensitivity.onnx_graph.qdq import Array
from sensitivity.onnx_graph.walk import (
    downstream,
    first_input,
    input_at,
    is_kind,
    made_by,
    not_none,
    source,
)

PASSED_BY = {"MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity"}
"""Operations that ONNX Runtime moves a DQ after and a Q before."""

CUTS = {"Relu", "Clip"}
"""Operations that may stand between the layer and its Q."""

GET_A_PAIR = PASSED_BY - {"Identity"}
"""Operations after which ONNX Runtime puts a pair if there is one in front."""

FIRST_OPSET_OF_MOVES = 21
"""First opset in which it puts such pairs in files of any type."""

LARGEST = float(np.iinfo(np.int32).max)
"""Largest INT32 value, which a bias must not exceed."""
MARGIN = 1.0001
"""Factor on the smallest scale that a bias fits in, the same as in ONNX Runtime's own quantizer."""


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A layer that ONNX Runtime computes in integers.

    input_scale: scale of the DQ in front.
    weight: pair of the weight; None for a float weight.
    bias: float64[channels]; None if there is none, or it is not a float constant.
    output: the value that the Q after the layer reads, perhaps through operations that only move
        values.
    """

    node: ir.Node
    input_scale: float
    weight: qdq.Pair | None
    bias: Array | None
    output: ir.Value

    def smallest_weight_scale(self) -> Array | None:
        """Return the weight scales below which the bias no longer fits INT32, in the shape of the
        weight's scale.

        Returns None if the layer has no bias, or no weight scale that is known.
        """
        return match_or_none(_smallest_weight_scale, self)


def _smallest_weight_scale(layer: IntegerLayer) -> Array:
    """Return the same as `IntegerLayer.smallest_weight_scale`, but raise NoMatch instead of
    returning None."""
    weight, bias = needed(layer.weight), needed(layer.bias)
    scale = qdq.scales_of(weight.dequantize)
    require(0 < layer.input_scale < np.inf)
    # The weight has one scale, or one per output channel.
    require(scale.size in (1, bias.size))
    rank = needed(qdq.constant(weight.source)).ndim
    require(weight.axis_in(rank) in (None, qdq.output_axis(layer.node, rank)))
    smallest = np.abs(bias) / LARGEST / layer.input_scale
    if scale.size == 1:
        smallest = smallest.max()
    return np.reshape(smallest, scale.shape)


def integer_layers(graph: ir.Graph) -> Iterator[IntegerLayer]:
    """Return every layer that becomes an integer kernel in ONNX Runtime, in the order of the
    graph's nodes."""
    return matches(_integer_layer, qdq.weighted_nodes(graph))


def _integer_layer(node: ir.Node) -> IntegerLayer:
    """Return the layer of this operation with a weight. Raises NoMatch if it is computed in
    float."""
    end, scale = _with_bias(node), needed(input_scale(node))
    quantizer = needed(quantizer_after(end.value))
    value = qdq.weight(node)
    weight = qdq.pair_of(value)
    if weight is None:
        needed(qdq.constant(value))
    return IntegerLayer(node, scale, weight, end.bias, first_input(quantizer))


def moved_int8(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the operations that move an int8 activation after its pair and keep ONNX Runtime from
    loading the file.

    From opset 21 on, ONNX Runtime puts a pair after them that is int8 by its attribute and uint8
    by its zero point, unless only a Q follows already.
    """
    if model.opset_imports.get("", 0) < FIRST_OPSET_OF_MOVES:
        return
    for value in matches(_int8_activation, qdq.pairs(model.graph)):
        yield from filter(_gets_a_pair, value.consumers())


def shared_int8(model: ir.Model) -> Iterator[ir.Value]:
    """Yield the outputs of pairs of int8 activations that several operations read.

    On x64, ONNX Runtime turns the other int8 activations into uint8. A layer between the two types
    has no integer kernel and runs in float.
    """
    return filter(_is_shared, matches(_int8_activation, qdq.pairs(model.graph)))


def _is_shared(activation: ir.Value) -> bool:
    """Return whether several operations read what a pair gives, through one DQ or several."""
    dequantize = not_none(activation.producer())
    return len(activation.consumers()) > 1 or len(first_input(dequantize).consumers()) > 1


def _int8_activation(pair: qdq.Pair) -> ir.Value:
    """Return the output of a pair that quantizes an activation to int8 with one zero point.

    Raises NoMatch for any other pair.
    """
    require(not pair.is_compact)
    require(not pair.of_weight)
    zero = needed(pair.zero_point)
    require(zero.dtype == np.int8)
    require(zero.size == 1)
    return pair.output


def _gets_a_pair(node: ir.Node) -> bool:
    """Return whether ONNX Runtime puts a pair after this operation if there is one in front."""
    users = {user.op_type for user in node.outputs[0].consumers()}
    return node.op_type in GET_A_PAIR and users != {"QuantizeLinear"}


def input_scale(node: ir.Node) -> float | None:
    """Return the scale of the DQ that the layer reads; None if there is no such DQ, or it has
    several scales."""
    before_movers = source(first_input(node), lambda mover: mover.op_type in PASSED_BY)
    dequantize = made_by(before_movers, "DequantizeLinear")
    return qdq.only_number(qdq.constant(input_at(dequantize, 1)))


@dataclass(frozen=True, eq=False)
class _End:
    """The output of a layer, after its bias is added.

    bias: float64[channels]; None if there is none.
    """

    value: ir.Value
    bias: Array | None


def _with_bias(node: ir.Node) -> _End:
    """Return the end of a layer.

    Raises NoMatch if its bias is not a constant with one axis, and for a MatMul without the Add
    that ONNX Runtime fuses with it into one Gemm.
    """
    place = bias_input(node)
    if place.value is None and node.op_type != "MatMul":
        return _End(node.outputs[0], None)
    bias = needed(qdq.constant(place.value))
    require(bias.ndim == 1)
    return _End(place.node.outputs[0], bias.astype(np.float64))


def quantizer_after(value: ir.Value) -> ir.Node | None:
    """Return the Q after a layer that gives this value; None if anything else reads the output
    too."""
    last = next(filterfalse(_stands_between, downstream(value)), None)
    if not is_kind(last, "QuantizeLinear"):
        return None
    return last


def _stands_between(node: ir.Node) -> bool:
    """Return whether this operation may stand between a layer and its Q."""
    return node.op_type in CUTS | PASSED_BY
