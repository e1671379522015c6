"""Writes 1x1 convolutions whose output stays in float as matrix products."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from sensitivity.onnx_graph.matching import RewriteMatches, require
from sensitivity.onnx_graph.passes.float_weights import output_is_quantized
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.quantize_outputs import only_to_quantized
from sensitivity.onnx_graph.passes.quantized_conv import QuantizedConv, quantized_convs
from sensitivity.onnx_graph.uses import BIAS_INPUT
from sensitivity.onnx_graph.walk import input_at, name_of

LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
"""Permutations that put the channels of an image last, and back."""


class PointwiseAsMatMul(RewriteMatches[QuantizedConv, QuantizedConv]):
    """Turns a 1x1 Conv between integers and float into MatMul and Add over the channels, with the
    same weights and scales.

    ONNX Runtime's integer convolutions give integers only, and its integer MatMul can give float.
    Its sums are exact, whereas the float convolution rounds them: values change by float rounding.
    If the output is quantized again after an activation, the layer stays, since the Transposes
    cost more than integers save: five times the layer's time in MobileNetV1 x0.25.
    """

    def places(self, graph: ir.Graph) -> Iterable[QuantizedConv]:
        return quantized_convs(graph)

    def match(self, place: QuantizedConv) -> QuantizedConv:
        """Return the convolution. Raises NoMatch unless it is 1x1, keeps pixels in place and gives
        float."""
        require(not place.weight.is_compact)
        require(place.values.shape[2:] == (1, 1))
        require(_keeps_pixels(place.node))
        require(not output_is_quantized(place.node))
        require(not only_to_quantized(place.node.outputs[0]))
        return place

    def rewrite(self, graph: ir.Graph, found: QuantizedConv) -> None:
        _replace(graph, found)


def _keeps_pixels(node: ir.Node) -> bool:
    """Return whether each pixel of the output has the place of its pixel in the input."""
    attributes = node.attributes
    has_pads = any(attributes.get_ints("pads", []))
    is_padded = has_pads or attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
    steps = set(attributes.get_ints("strides", []))
    return not is_padded and steps <= {1}


def _replace(graph: ir.Graph, conv: QuantizedConv) -> None:
    """Replace the convolution by a MatMul on integers with channels last."""
    node, pair, weight = conv.node, conv.given, conv.weight
    name = name_of(node)
    integers = ir.node(
        "Transpose", [pair.dequantize.inputs[0]], {"perm": LAST}, name=f"{name}/ChannelsLast"
    )
    pixels = _like(pair.dequantize, integers.outputs[0], {}, f"{name}/DequantizeLinear")
    turned = add(graph, f"{weight.source.name}.transposed", conv.values[:, :, 0, 0].T)
    axis = {} if weight.axis is None else {"axis": 1}
    levels = _like(weight.nodes[0], turned, axis, f"{name}/WeightQuantizeLinear")
    matrix = _like(weight.dequantize, levels.outputs[0], axis, f"{name}/WeightDequantizeLinear")
    product = ir.node("MatMul", [pixels.outputs[0], matrix.outputs[0]], name=name)
    nodes = [integers, pixels, levels, matrix, product]
    bias = input_at(node, BIAS_INPUT)
    if bias is not None:
        nodes.append(ir.node("Add", [product.outputs[0], bias], name=f"{name}/Add"))
    nodes.append(
        ir.node("Transpose", nodes[-1].outputs, {"perm": FIRST}, name=f"{name}/ChannelsFirst")
    )
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], nodes, node.outputs, nodes[-1].outputs
    )


def _like(node: ir.Node, value: ir.Value, attributes: dict[str, int], name: str) -> ir.Node:
    """Return a Q or DQ with the scale of this one, on another value."""
    return ir.node(node.op_type, [value, *node.inputs[1:]], attributes, name=name)
