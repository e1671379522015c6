"""Fold BatchNorm into the weighted operation before it, without moving its weight grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.levels import along, limits_of, nearest_levels, numpy_type
from sensitivity.onnx_graph.marks import add_module_outputs, module_outputs
from sensitivity.onnx_graph.matching import RewriteInTurn, needed, require
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.new_pair import new_pair
from sensitivity.onnx_graph.uses import BIAS_INPUT, stored_type
from sensitivity.onnx_graph.walk import (
    given,
    graph_of,
    of_kind,
    producer,
    remove_unread,
    there,
    value_name,
)

SMALLEST_SCALE = 1e-37
"""Below this, float32 loses digits."""


@dataclass(frozen=True, eq=False)
class Affine:
    """y = factor * x + shift per channel, float64[channels]."""

    factor: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True, eq=False)
class Folded:
    """New constants of the operation; scale is None where its weight is not quantized."""

    weight: np.ndarray
    bias: np.ndarray
    scale: np.ndarray | None
    axis: int


@dataclass(frozen=True, eq=False)
class _Norm:
    """A BatchNorm behind an operation that it can be folded into, with the new constants of
    that."""

    node: ir.Node
    norm: ir.Node
    folded: Folded


class FoldBatchNorm(RewriteInTurn[ir.Node, _Norm]):
    """Fold BatchNorm into the Conv, ConvTranspose or Gemm that alone feeds it.

    The weight scale of a quantized operation is multiplied by |factor| per channel, so that the
    integers stay the same (their sign follows the factor's). Where that would not be exact the
    BatchNorm stays.
    """

    def places(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return of_kind(graph.all_nodes(), "BatchNormalization")

    def match(self, place: ir.Node) -> _Norm:
        node = needed(producer(place.inputs[0]))
        affine = _affine(place)
        _require_alone(node, place)
        return _Norm(node, place, _fold(node, affine))

    def rewrite(self, _: ir.Graph, found: _Norm) -> None:
        put_in(found.node, found.folded)
        _take_over(found.node.outputs[0], found.norm)


def _require_alone(node: ir.Node, norm: ir.Node) -> None:
    """Raise NoMatch unless the BatchNorm alone reads the operation, and only its first output is
    read."""
    output = node.outputs[0]
    require(not output.is_graph_output())
    require(len(output.uses()) == 1)
    read = [value for value in norm.outputs if value.uses()]
    require(len(read) <= 1)


def _affine(norm: ir.Node) -> Affine:
    """Return what the BatchNorm does. Raises NoMatch where the graph computes it, and in
    training."""
    require(not norm.attributes.get_int("training_mode"))
    constants = [needed(qdq.constant(value)) for value in norm.inputs[1:5]]
    gamma, beta, mean, variance = (constant.astype(np.float64) for constant in constants)
    factor = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    return Affine(factor, beta - mean * factor)


def _output_axis(node: ir.Node) -> int:
    """Return the weight's axis of output channels. Raises NoMatch where there is no such axis that
    can be folded into."""
    attributes = node.attributes
    factors = attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)
    can_be_folded_into = {
        "Conv": True,
        "ConvTranspose": attributes.get_int("group", 1) == 1,
        "Gemm": factors == (1.0, 1.0),
    }
    require(can_be_folded_into.get(node.op_type, False))
    return qdq.output_axis(node, 2)


def _fold(node: ir.Node, affine: Affine) -> Folded:
    """New constants of the operation with what follows it folded in. Raises NoMatch where that
    would not be exact."""
    axis, value = _output_axis(node), needed(qdq.weight(node))
    pair = qdq.pair_of(value)
    weight = needed(qdq.stored(value))
    bias = _bias(node)
    folded_bias = (bias * affine.factor + affine.shift).astype(np.float32)
    folded = weight * along(affine.factor, axis, weight.ndim)
    if pair is None:
        return Folded(folded.astype(np.float32), folded_bias, None, axis)
    integers = _Integers(pair, weight, axis)
    exact, scale = _fold_quantized(integers, folded, affine.factor)
    return Folded(exact, folded_bias, scale, axis)


def _bias(node: ir.Node) -> np.ndarray:
    """Return the bias of the operation; 0 where it has none. Raises NoMatch where the graph
    computes it."""
    value = given(node, BIAS_INPUT)
    return np.zeros(1) if value is None else needed(qdq.constant(value))


@dataclass(frozen=True, eq=False)
class _Integers:
    """A quantized weight. values: in float, before it is quantized. axis: of its output
    channels."""

    pair: qdq.Pair
    values: np.ndarray
    axis: int


def _fold_quantized(
    weight: _Integers, folded: np.ndarray, factor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight and scale, float32, with the same integers as before. Raises NoMatch where
    there are none such."""
    pair, axis, rank = weight.pair, weight.axis, folded.ndim
    scale = needed(pair.scale)
    require(not pair.is_compact)
    require(pair.block is None)
    require(pair.axis in {None, axis})
    kind = stored_type(pair)
    levels = nearest_levels(weight.values / along(scale, pair.axis, rank), kind)
    levels = levels * along(np.sign(factor), axis, rank)
    channel_scales = np.broadcast_to(scale.reshape(-1), factor.shape)
    new_scale = (channel_scales * np.abs(factor)).astype(np.float32)
    # all weights of the channel are 0: any scale will do
    new_scale = np.where(factor == 0, np.float32(1), new_scale)
    _, largest_level = limits_of(kind)
    require(levels.max(initial=0) <= largest_level)
    require(new_scale.min() >= SMALLEST_SCALE)
    shaped = along(new_scale, axis, rank)
    folded = folded.astype(np.float32)
    wrong = nearest_levels(folded / shaped, kind) != levels
    return np.where(wrong, levels.astype(np.float32) * shaped, folded), new_scale


def scaled(node: ir.Node, factor: np.ndarray, *, scales_bias: bool) -> Folded:
    """New constants with which each output channel of an operation is multiplied by its factor, but
    for its bias where that is not to be scaled. Raises NoMatch where that is not exact.

    factor: float64[channels], all above 0.
    """
    folded = _fold(node, Affine(factor, np.zeros_like(factor)))
    if scales_bias:
        return folded
    own = qdq.constant(given(node, BIAS_INPUT))
    bias = np.zeros(len(factor), np.float32) if own is None else own
    return replace(folded, bias=bias)


def put_in(node: ir.Node, folded: Folded) -> None:
    """Give the operation these constants."""
    graph = graph_of(node)
    name = value_name(qdq.source_of(qdq.weight(node))) or "weight"
    weight = add(graph, f"{name}.folded", folded.weight)
    if folded.scale is None:
        node.replace_input_with(qdq.WEIGHT_INPUT[node.op_type], weight)
    else:
        _requantize(node, weight, folded.scale, folded.axis)
    bias = add(graph, f"{name.removesuffix('.weight')}.bias.folded", folded.bias)
    node.resize_inputs(3)
    node.replace_input_with(2, bias)


def _take_over(output: ir.Value, norm: ir.Node) -> None:
    """Let the operation's output stand where the BatchNorm's did, with its name and its marks."""
    normed = norm.outputs[0]
    after = module_outputs(normed)
    # What had a BatchNorm folded in already is the output of no one module after it any more.
    single = [given for given in module_outputs(output) if given.then is None]
    before = [replace(given, then=after[0].module) for given in single] if after else []
    normed_name = normed.name
    normed.replace_all_uses_with(output, replace_graph_outputs=True)
    graph_of(norm).remove(norm, safe=True)
    output.name = normed_name
    output.meta.clear()
    add_module_outputs(output, (*before, *after))


def _requantize(node: ir.Node, weight: ir.Value, scales: np.ndarray, axis: int) -> None:
    """Give the operation a pair of its own with this weight: the old one may serve another
    operation too."""
    graph, pair = graph_of(node), there(qdq.pair_of(qdq.weight(node)))
    name = value_name(pair.dequantize.inputs[1]) or "scale"
    scale = add(graph, f"{name}.folded", scales)
    kind = stored_type(pair)
    zeros = np.zeros(scales.shape, numpy_type(kind))
    zero_point = add(graph, f"{name.removesuffix('.scale')}.zero_point.folded", zeros, kind)
    names = pair.nodes[0].name, pair.dequantize.name
    quantize, dequantize = new_pair(weight, [scale, zero_point], axis, names)
    graph.insert_before(node, [quantize, dequantize])
    node.replace_input_with(qdq.WEIGHT_INPUT[node.op_type], dequantize.outputs[0])
    remove_unread(reversed(pair.nodes))
