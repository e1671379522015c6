"""1x1 convolutions whose output stays in float, as products of matrices."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph.passes.float_weights import output_is_quantized
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.quantize_outputs import only_to_quantized
from sensitivity.onnx_graph.passes.quantized_conv import QuantizedConv, quantized_convs
from sensitivity.onnx_graph.uses import BIAS_INPUT
from sensitivity.onnx_graph.walk import given, name_of

LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
"""Permutations that put the channels of an image last, and back to where they were."""


class PointwiseAsMatMul(ir.passes.InPlacePass):
    """Conv 1x1 between integers and float becomes MatMul and Add over the channels, with the same
    weights and scales.

    ONNX Runtime's integer convolutions give integers only; its integer MatMul gives float too. Sums
    are exact in integers, where the float convolution rounds them: values change by float rounding.
    Where the output is quantized again behind an activation, the Transposes cost more than integers
    save, five times the layer in MobileNetV1 x0.25.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = list(filter(_is_pointwise, quantized_convs(model.graph)))
        for convolution in found:
            _replace(model.graph, convolution)
        return ir.passes.PassResult(model, modified=bool(found))


def _is_pointwise(found: QuantizedConv) -> bool:
    """Whether it is a 1x1 convolution that keeps pixels in place and gives float."""
    if found.weight.quantize is None or output_is_quantized(found.node):
        return False
    if only_to_quantized(found.node.outputs[0]):
        return False
    is_small = found.values.ndim == 4 and found.values.shape[2:] == (1, 1)
    return is_small and _keeps_pixels(found.node)


def _keeps_pixels(node: ir.Node) -> bool:
    """Whether each pixel of the output is in the place of one of the input."""
    attributes = node.attributes
    has_pads = any(attributes.get_ints("pads", []))
    is_padded = has_pads or attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
    steps = set(attributes.get_ints("strides", []))
    return not is_padded and steps <= {1}


def _replace(graph: ir.Graph, found: QuantizedConv) -> None:
    node, pair, weight = found.node, found.given, found.weight
    assert weight.quantize is not None
    name = name_of(node)
    integers = ir.node(
        "Transpose", [pair.dequantize.inputs[0]], {"perm": LAST}, name=f"{name}/ChannelsLast"
    )
    pixels = _like(pair.dequantize, integers.outputs[0], {}, f"{name}/DequantizeLinear")
    turned = add(graph, f"{weight.source.name}.transposed", found.values[:, :, 0, 0].T)
    axis = {} if weight.axis is None else {"axis": 1}
    levels = _like(weight.quantize, turned, axis, f"{name}/WeightQuantizeLinear")
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
