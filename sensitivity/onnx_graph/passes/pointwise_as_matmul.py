"""1x1 convolutions whose output stays in float, as products of matrices."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.float_weights import output_is_quantized
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.uses import BIAS_INPUT
from sensitivity.onnx_graph.walk import given

LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
"""Permutations that put the channels of an image last, and back to where they were."""


class PointwiseAsMatMul(ir.passes.InPlacePass):
    """Conv 1x1 between integers and float becomes MatMul and Add over the channels, with the same
    weights and scales.

    ONNX Runtime's integer convolutions give integers only; its integer MatMul gives float too. Sums
    are exact in integers, where the float convolution rounds them: values change by float rounding.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = list(filter(None, map(_pointwise, model.graph)))
        for convolution in found:
            _replace(model.graph, convolution)
        return ir.passes.PassResult(model, modified=bool(found))


@dataclass(frozen=True, eq=False)
class _Pointwise:
    """A 1x1 convolution. given, weight: the pairs that it reads. quantize: the Q of its weight.
    values: of the weight, [out, in, 1, 1]."""

    node: ir.Node
    given: qdq.Pair
    weight: qdq.Pair
    quantize: ir.Node
    values: qdq.Array


def _pointwise(node: ir.Node) -> _Pointwise | None:
    if node.op_type != "Conv" or not _keeps_pixels(node) or output_is_quantized(node):
        return None
    given, weight = map(qdq.pair_of, node.inputs[:2])
    if given is None or weight is None:
        return None
    values = qdq.constant(weight.source)
    if given.quantize is None or weight.quantize is None or values is None:
        return None
    is_pointwise = values.ndim == 4 and values.shape[2:] == (1, 1)
    has_scales = given.axis is None and weight.axis in {None, 0}
    if not is_pointwise or not has_scales:
        return None
    return _Pointwise(node, given, weight, weight.quantize, values)


def _keeps_pixels(node: ir.Node) -> bool:
    """Whether each pixel of the output is in the place of one of the input, all channels in one
    group."""
    attributes = node.attributes
    if any(attributes.get_ints("pads", [])) or attributes.get_int("group", 1) != 1:
        return False
    is_padded = attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
    steps = set(attributes.get_ints("strides", []))
    return not is_padded and steps <= {1}


def _replace(graph: ir.Graph, found: _Pointwise) -> None:
    node, pair, weight = found.node, found.given, found.weight
    name = node.name or node.outputs[0].name
    integers = ir.node(
        "Transpose", [pair.dequantize.inputs[0]], {"perm": LAST}, name=f"{name}/ChannelsLast"
    )
    pixels = _like(pair.dequantize, integers.outputs[0], {}, f"{name}/DequantizeLinear")
    turned = add(graph, f"{weight.source.name}.transposed", found.values[:, :, 0, 0].T)
    axis = {} if weight.axis is None else {"axis": 1}
    levels = _like(found.quantize, turned, axis, f"{name}/WeightQuantizeLinear")
    matrix = _like(weight.dequantize, levels.outputs[0], axis, f"{name}/WeightDequantizeLinear")
    product = ir.node("MatMul", [pixels.outputs[0], matrix.outputs[0]], name=name)
    made = [integers, pixels, levels, matrix, product]
    bias = given(node, BIAS_INPUT)
    if bias is not None:
        made.append(ir.node("Add", [product.outputs[0], bias], name=f"{name}/Add"))
    made.append(
        ir.node("Transpose", made[-1].outputs, {"perm": FIRST}, name=f"{name}/ChannelsFirst")
    )
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], made, node.outputs, made[-1].outputs
    )


def _like(node: ir.Node, value: ir.Value, attributes: dict[str, int], name: str) -> ir.Node:
    """A Q or DQ with the scale of this one, on another value."""
    return ir.node(node.op_type, [value, *node.inputs[1:]], attributes, name=name)
