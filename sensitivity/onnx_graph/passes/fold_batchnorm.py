"""Fold BatchNorm into the weighted operation before it, without moving its weight grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.marks import add_module_outputs, module_outputs
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.insert_qdq import along

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
        modified = False
        for norm in [
            node for node in model.graph.all_nodes() if node.op_type == "BatchNormalization"
        ]:
            node = norm.inputs[0].producer() if norm.inputs[0] is not None else None
            if node is None or not _alone(node, norm):
                continue
            affine = _affine(norm)
            folded = _fold(node, affine) if affine is not None else None
            if folded is not None:
                _apply(node, norm, folded)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _alone(node: ir.Node, norm: ir.Node) -> bool:
    output = node.outputs[0]
    return (
        not output.is_graph_output()
        and len(output.uses()) == 1
        and len([o for o in norm.outputs if o.uses()]) <= 1
    )


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
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if node.attributes.get_int("group", 1) == 1 else None
    if (
        node.op_type == "Gemm"
        and node.attributes.get_float("alpha", 1.0) == node.attributes.get_float("beta", 1.0) == 1
    ):
        return 0 if node.attributes.get_int("transB", 0) else 1
    return None


def _fold(node: ir.Node, affine: Affine) -> Folded | None:
    axis, value = output_axis(node), qdq.weight(node)
    if axis is None or value is None:
        return None
    pair = qdq.pair_of(value)
    weight = qdq.constant(pair.source if pair else value)
    bias_value = node.inputs[2] if len(node.inputs) > 2 else None
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
    if scale is None or pair.quantize is None or pair.axis not in {None, axis}:
        return None
    levels = np.clip(np.rint(weight / along(scale, pair.axis, weight.ndim)), -128, 127)
    levels = levels * along(np.sign(factor), axis, weight.ndim)
    new_scale = (np.broadcast_to(scale.reshape(-1), factor.shape) * np.abs(factor)).astype(
        np.float32
    )
    # all weights of the channel are 0: any scale will do
    new_scale = np.where(factor == 0, np.float32(1), new_scale)
    if levels.max(initial=0) > 127 or new_scale.min() < SMALLEST_SCALE:
        return None
    shaped = along(new_scale, axis, weight.ndim)
    folded = folded.astype(np.float32)
    wrong = np.clip(np.rint(folded / shaped), -128, 127) != levels
    return np.where(wrong, levels.astype(np.float32) * shaped, folded), new_scale


def _apply(node: ir.Node, norm: ir.Node, folded: Folded) -> None:
    graph, value = node.graph, qdq.weight(node)
    assert graph is not None
    assert value is not None
    pair = qdq.pair_of(value)
    source = pair.source if pair else value
    name = source.name or "weight"
    weight = add(graph, f"{name}.folded", folded.weight)
    if pair is None or folded.scale is None:
        node.replace_input_with(qdq.WEIGHT_INPUT[node.op_type], weight)
    else:
        _requantize(graph, node, pair, weight, folded.scale, folded.axis)
    bias = add(graph, f"{name.removesuffix('.weight')}.bias.folded", folded.bias)
    node.resize_inputs(3)
    node.replace_input_with(2, bias)
    output, normed = node.outputs[0], norm.outputs[0]
    after = module_outputs(normed)
    # What had a BatchNorm folded in already is the output of no one module after it any more.
    single = [given for given in module_outputs(output) if given.then is None]
    before = [replace(given, then=after[0].module) for given in single] if after else []
    outputs = (*before, *after)
    normed_name = normed.name
    normed.replace_all_uses_with(output, replace_graph_outputs=True)
    graph.remove(norm, safe=True)
    output.name = normed_name
    output.meta.clear()
    add_module_outputs(output, outputs)


def _requantize(
    graph: ir.Graph, node: ir.Node, pair: qdq.Pair, weight: ir.Value, scale: np.ndarray, axis: int
) -> None:
    """A pair of its own for this weight: the old one may serve another operation too."""
    assert pair.quantize is not None
    old = pair.dequantize.inputs[1]
    name = old.name if old is not None and old.name else "scale"
    scale_value = add(graph, f"{name}.folded", scale)
    zero_point = add(
        graph, f"{name.removesuffix('.scale')}.zero_point.folded", np.zeros(scale.shape, np.int8)
    )
    quantize = ir.node(
        "QuantizeLinear", [weight, scale_value, zero_point], {"axis": axis}, name=pair.quantize.name
    )
    dequantize = ir.node(
        "DequantizeLinear",
        [quantize.outputs[0], scale_value, zero_point],
        {"axis": axis},
        name=pair.dequantize.name,
    )
    graph.insert_before(node, [quantize, dequantize])
    node.replace_input_with(qdq.WEIGHT_INPUT[node.op_type], dequantize.outputs[0])
    if not pair.output.uses() and not pair.output.is_graph_output():
        quantize_before = pair.quantize
        graph.remove(pair.dequantize, safe=True)
        if not quantize_before.outputs[0].uses():
            graph.remove(quantize_before, safe=True)
