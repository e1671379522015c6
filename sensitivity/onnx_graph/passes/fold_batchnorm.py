"""Folds BatchNorm into the weighted operation before it, without changing the integers of its
weight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.levels import along, limits_of, nearest_levels, numpy_type
from sensitivity.onnx_graph.marks import add_module_outputs, module_outputs
from sensitivity.onnx_graph.matching import RewriteInTurn, needed, require
from sensitivity.onnx_graph.passes.initializers import add, remove_constants
from sensitivity.onnx_graph.passes.new_pair import new_dequantize, new_pair
from sensitivity.onnx_graph.uses import BIAS_INPUT, stored_type
from sensitivity.onnx_graph.walk import (
    graph_of,
    input_at,
    not_none,
    of_kind,
    producer,
    remove_unread,
    value_name,
)

SMALLEST_SCALE = 1e-37
"""Smallest scale. Below it, float32 loses digits."""


@dataclass(frozen=True, eq=False)
class Affine:
    """The function y = factor * x + shift per channel, with float64[channels] each."""

    factor: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True, eq=False)
class Folded:
    """New constants of an operation.

    weight: float values, or the levels of a weight in the compact form.
    scale: None if its weight is not quantized.
    axis: axis of the output channels in the weight.
    """

    weight: np.ndarray
    bias: np.ndarray
    scale: np.ndarray | None
    axis: int


@dataclass(frozen=True, eq=False)
class _Norm:
    """A BatchNorm after an operation that it can be folded into.

    folded: new constants of the operation.
    """

    node: ir.Node
    norm: ir.Node
    folded: Folded


class FoldBatchNorm(RewriteInTurn[ir.Node, _Norm]):
    """Folds BatchNorm into the Conv, ConvTranspose or Gemm whose output it alone reads.

    The weight scale of a quantized operation is multiplied by |factor| per channel, so that the
    integers stay the same (their sign follows the factor's). If that would not be exact, the
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
    """Raise NoMatch unless the BatchNorm is the only reader of the operation, and only one output
    of the BatchNorm is read."""
    output = node.outputs[0]
    require(not output.is_graph_output())
    require(len(output.uses()) == 1)
    read = [value for value in norm.outputs if value.uses()]
    require(len(read) <= 1)


def _affine(norm: ir.Node) -> Affine:
    """Return what the BatchNorm computes. Raises NoMatch if the graph computes its parameters, or
    in training mode."""
    require(not norm.attributes.get_int("training_mode"))
    constants = [needed(qdq.constant(value)) for value in norm.inputs[1:5]]
    gamma, beta, mean, variance = (constant.astype(np.float64) for constant in constants)
    factor = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    return Affine(factor, beta - mean * factor)


def _output_axis(node: ir.Node) -> int:
    """Return the axis of the output channels in the weight.

    Raises NoMatch if the operation has no such axis that can be folded into.
    """
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
    """Return the constants of the operation with what follows it folded in.

    Raises NoMatch if that would not be exact.
    """
    axis, value = _output_axis(node), needed(qdq.weight(node))
    pair = qdq.pair_of(value)
    weight = needed(qdq.stored(value))
    bias = _bias(node)
    folded_bias = (bias * affine.factor + affine.shift).astype(np.float32)
    folded = weight * along(affine.factor, axis, weight.ndim)
    if pair is None:
        return Folded(folded.astype(np.float32), folded_bias, None, axis)
    integers = _Integers(pair, weight, axis)
    if pair.is_compact:
        return Folded(weight, folded_bias, _fold_compact(integers, affine.factor), axis)
    exact, scale = _fold_quantized(integers, folded, affine.factor)
    return Folded(exact, folded_bias, scale, axis)


def _bias(node: ir.Node) -> np.ndarray:
    """Return the bias of the operation; 0 if it has none. Raises NoMatch if the graph computes
    it."""
    value = input_at(node, BIAS_INPUT)
    return np.zeros(1) if value is None else needed(qdq.constant(value))


@dataclass(frozen=True, eq=False)
class _Integers:
    """A quantized weight.

    values: float values before the quantizer, or levels in the compact form.
    axis: axis of its output channels.
    """

    pair: qdq.Pair
    values: np.ndarray
    axis: int


def _fold_quantized(
    weight: _Integers, folded: np.ndarray, factor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and scale, float32, with the same integers as before.

    Raises NoMatch if that is not possible.
    """
    pair, axis, rank = weight.pair, weight.axis, folded.ndim
    scale = needed(pair.scale)
    require(not pair.zero_points.any())
    new_scale = _new_scale(weight, factor)
    kind = stored_type(pair)
    levels = nearest_levels(weight.values / along(scale, pair.axis, rank), kind)
    levels = levels * along(np.sign(factor), axis, rank)
    _, largest_level = limits_of(kind)
    require(levels.max(initial=0) <= largest_level)
    shaped = along(new_scale, axis, rank)
    folded = folded.astype(np.float32)
    wrong = nearest_levels(folded / shaped, kind) != levels
    return np.where(wrong, levels.astype(np.float32) * shaped, folded), new_scale


def _fold_compact(weight: _Integers, factor: np.ndarray) -> np.ndarray:
    """Return the scale with which the levels of a weight in the compact form give the factor times
    as much.

    Raises NoMatch for a factor that no scale can have.
    """
    require(factor.min() > 0)
    require(len(weight.pair.zero_points) == 1)
    return _new_scale(weight, factor)


def _new_scale(weight: _Integers, factor: np.ndarray) -> np.ndarray:
    """Return the scale per channel times the size of the factor, float32[channels].

    Raises NoMatch if the scale has another axis, or becomes too small.
    """
    pair, scale = weight.pair, needed(weight.pair.scale)
    require(pair.block is None)
    require(pair.axis in {None, weight.axis})
    channel_scales = np.broadcast_to(scale.reshape(-1), factor.shape)
    new_scale = (channel_scales * np.abs(factor)).astype(np.float32)
    # If all weights of a channel are 0, any scale will do.
    new_scale = np.where(factor == 0, np.float32(1), new_scale)
    require(new_scale.min() >= SMALLEST_SCALE)
    return new_scale


def scaled(node: ir.Node, factor: np.ndarray, *, scales_bias: bool) -> Folded:
    """Return constants of an operation that multiply each of its output channels by a factor.

    factor: float64[channels], all above 0.
    scales_bias: whether the bias is multiplied too.
    Raises NoMatch if that would not be exact.
    """
    folded = _fold(node, Affine(factor, np.zeros_like(factor)))
    if scales_bias:
        return folded
    own = qdq.constant(input_at(node, BIAS_INPUT))
    bias = np.zeros(len(factor), np.float32) if own is None else own
    return replace(folded, bias=bias)


def put_in(node: ir.Node, folded: Folded) -> None:
    """Give the operation these constants, and remove those that nothing reads any more."""
    graph, before = graph_of(node), node.inputs[1:]
    name = value_name(qdq.source_of(qdq.weight(node))) or "weight"
    weight = add(graph, f"{name}.folded", folded.weight)
    if folded.scale is None:
        node.replace_input_with(qdq.WEIGHT_INPUT[node.op_type], weight)
    else:
        _requantize(node, weight, folded.scale, folded.axis)
    bias = add(graph, f"{name.removesuffix('.weight')}.bias.folded", folded.bias)
    node.resize_inputs(3)
    node.replace_input_with(2, bias)
    remove_constants(before)


def _take_over(output: ir.Value, norm: ir.Node) -> None:
    """Replace the BatchNorm's output by the operation's, which takes over its name and its
    marks."""
    normed = norm.outputs[0]
    after = module_outputs(normed)
    # A module that has a BatchNorm folded in already cannot name a second one: it is dropped.
    single = [mark for mark in module_outputs(output) if mark.then is None]
    before = [replace(mark, then=after[0].module) for mark in single] if after else []
    normed_name = normed.name
    normed.replace_all_uses_with(output, replace_graph_outputs=True)
    graph_of(norm).remove(norm, safe=True)
    output.name = normed_name
    output.meta.clear()
    add_module_outputs(output, (*before, *after))


def _requantize(node: ir.Node, weight: ir.Value, scales: np.ndarray, axis: int) -> None:
    """Give the operation a new pair with this weight, because another operation may share the old
    one."""
    graph, pair = graph_of(node), not_none(qdq.pair_of(qdq.weight(node)))
    name = value_name(pair.dequantize.inputs[1]) or "scale"
    scale = add(graph, f"{name}.folded", scales)
    kind = stored_type(pair)
    zeros = np.full(scales.shape, pair.zero_points[0], numpy_type(kind))
    zero_point = add(graph, f"{name.removesuffix('.scale')}.zero_point.folded", zeros, kind)
    parameters, names = [scale, zero_point], (pair.nodes[0].name, pair.dequantize.name)
    if pair.is_compact:
        nodes = [new_dequantize(weight, parameters, axis, names[1])]
    else:
        nodes = [*new_pair(weight, parameters, axis, names)]
    graph.insert_before(node, nodes)
    node.replace_input_with(qdq.WEIGHT_INPUT[node.op_type], nodes[-1].outputs[0])
    constants = pair.source, *pair.dequantize.inputs[1:]
    remove_unread(reversed(pair.nodes))
    remove_constants(constants)
