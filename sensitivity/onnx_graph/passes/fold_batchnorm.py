"""Fold BatchNorm into the weighted operation before it, without moving its weight grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.levels import along, limits_of, nearest_levels, numpy_type
from sensitivity.onnx_graph.marks import add_module_outputs, module_outputs
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.new_pair import new_pair
from sensitivity.onnx_graph.uses import BIAS_INPUT, stored_type
from sensitivity.onnx_graph.walk import given, graph_of, is_read, producer, value_name

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


class FoldBatchNorm(ir.passes.InPlacePass):
    """Fold BatchNorm into the Conv, ConvTranspose or Gemm that alone feeds it.

    The weight scale of a quantized operation is multiplied by |factor| per channel, so that the
    integers stay the same (their sign follows the factor's). Where that would not be exact the
    BatchNorm stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = list(model.graph.all_nodes())
        norms = [node for node in nodes if node.op_type == "BatchNormalization"]
        changed = [_fold_into_layer(norm) for norm in norms]
        return ir.passes.PassResult(model, modified=any(changed))


def _fold_into_layer(norm: ir.Node) -> bool:
    """Fold one BatchNorm; False where it stays."""
    node, affine = producer(norm.inputs[0]), _affine(norm)
    if node is None or affine is None or not _alone(node, norm):
        return False
    folded = _fold(node, affine)
    if folded is None:
        return False
    _apply(node, norm, folded)
    return True


def _alone(node: ir.Node, norm: ir.Node) -> bool:
    """Whether the BatchNorm alone reads the operation, and only its first output is read."""
    output = node.outputs[0]
    if output.is_graph_output() or len(output.uses()) != 1:
        return False
    return sum(bool(value.uses()) for value in norm.outputs) <= 1


def _affine(norm: ir.Node) -> Affine | None:
    constants = [qdq.constant(value) for value in norm.inputs[1:5]]
    if any(value is None for value in constants) or norm.attributes.get_int("training_mode"):
        return None
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in constants)
    factor = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    return Affine(factor, beta - mean * factor)


def output_axis(node: ir.Node) -> int | None:
    """The weight's axis of output channels; None where there is no such axis that can be folded
    into."""
    attributes = node.attributes
    factors = attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)
    can_be_folded_into = {
        "Conv": True,
        "ConvTranspose": attributes.get_int("group", 1) == 1,
        "Gemm": factors == (1.0, 1.0),
    }
    return qdq.output_axis(node, 2) if can_be_folded_into.get(node.op_type) else None


def _fold(node: ir.Node, affine: Affine) -> Folded | None:
    axis, value = output_axis(node), qdq.weight(node)
    if axis is None or value is None:
        return None
    pair = qdq.pair_of(value)
    weight = qdq.constant(value if pair is None else pair.source)
    bias_value = given(node, BIAS_INPUT)
    bias = np.zeros(1) if bias_value is None else qdq.constant(bias_value)
    if weight is None or bias is None:
        return None
    folded_bias = (bias * affine.factor + affine.shift).astype(np.float32)
    folded = weight * along(affine.factor, axis, weight.ndim)
    if pair is None:
        return Folded(folded.astype(np.float32), folded_bias, None, axis)
    exact = _fold_quantized(pair, weight, folded, affine.factor, axis)
    return None if exact is None else Folded(exact[0], folded_bias, exact[1], axis)


def _fold_quantized(
    pair: qdq.Pair, weight: np.ndarray, folded: np.ndarray, factor: np.ndarray, axis: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Weight and scale, float32, with the same integers as before; None where there are none
    such."""
    scale = pair.scale
    is_by_channel = pair.block is None and pair.axis in {None, axis}
    if scale is None or pair.quantize is None or not is_by_channel:
        return None
    kind = stored_type(pair)
    levels = nearest_levels(weight / along(scale, pair.axis, weight.ndim), kind)
    levels = levels * along(np.sign(factor), axis, weight.ndim)
    new_scale = (np.broadcast_to(scale.reshape(-1), factor.shape) * np.abs(factor)).astype(
        np.float32
    )
    # all weights of the channel are 0: any scale will do
    new_scale = np.where(factor == 0, np.float32(1), new_scale)
    if levels.max(initial=0) > limits_of(kind)[1] or new_scale.min() < SMALLEST_SCALE:
        return None
    shaped = along(new_scale, axis, weight.ndim)
    folded = folded.astype(np.float32)
    wrong = nearest_levels(folded / shaped, kind) != levels
    return np.where(wrong, levels.astype(np.float32) * shaped, folded), new_scale


def scaled(node: ir.Node, factor: np.ndarray, *, scales_bias: bool) -> Folded | None:
    """New constants with which each output channel of an operation is multiplied by its factor, but
    for its bias where that is not to be scaled; None where that is not exact.

    factor: float64[channels], all above 0.
    """
    folded = _fold(node, Affine(factor, np.zeros_like(factor)))
    if folded is None or scales_bias:
        return folded
    own = qdq.constant(given(node, BIAS_INPUT))
    bias = np.zeros(len(factor), np.float32) if own is None else own
    return replace(folded, bias=bias)


def _apply(node: ir.Node, norm: ir.Node, folded: Folded) -> None:
    put_in(node, folded)
    _take_over(node.outputs[0], norm)


def put_in(node: ir.Node, folded: Folded) -> None:
    """Give the operation these constants."""
    graph, value = graph_of(node), qdq.weight(node)
    assert value is not None
    pair = qdq.pair_of(value)
    source = pair.source if pair else value
    name = source.name or "weight"
    weight = add(graph, f"{name}.folded", folded.weight)
    if pair is None or folded.scale is None:
        node.replace_input_with(qdq.WEIGHT_INPUT[node.op_type], weight)
    else:
        _requantize(graph, node, pair, weight, folded)
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


def _requantize(
    graph: ir.Graph, node: ir.Node, pair: qdq.Pair, weight: ir.Value, folded: Folded
) -> None:
    """A pair of its own for this weight: the old one may serve another operation too."""
    assert pair.quantize is not None
    assert folded.scale is not None
    name = value_name(pair.dequantize.inputs[1]) or "scale"
    scale = add(graph, f"{name}.folded", folded.scale)
    kind = stored_type(pair)
    zeros = np.zeros(folded.scale.shape, numpy_type(kind))
    zero_point = add(graph, f"{name.removesuffix('.scale')}.zero_point.folded", zeros, kind)
    names = pair.quantize.name, pair.dequantize.name
    quantize, dequantize = new_pair(weight, [scale, zero_point], folded.axis, names)
    graph.insert_before(node, [quantize, dequantize])
    node.replace_input_with(qdq.WEIGHT_INPUT[node.op_type], dequantize.outputs[0])
    for old_node in (pair.dequantize, pair.quantize):
        if not is_read(old_node):
            graph.remove(old_node, safe=True)
