"""1x1 convolutions whose output stays in float, as products of matrices."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.float_weights import output_is_quantized
from sensitivity.onnx_graph.passes.initializers import add

LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
"""Permutations that put the channels of an image last, and back to where they were."""


class PointwiseAsMatMul(ir.passes.InPlacePass):
    """Conv 1x1 between integers and float becomes MatMul and Add over the channels, with the same
    weights and scales.

    ONNX Runtime's integer convolutions give integers only; its integer MatMul gives float too. Sums
    are exact in integers, where the float convolution rounds them: values change by float rounding.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [node for node in model.graph if node.op_type == "Conv" and _is_pointwise(node)]
        for node in found:
            _replace(model.graph, node)
        return ir.passes.PassResult(model, modified=bool(found))


def _is_pointwise(node: ir.Node) -> bool:
    given, weight = (qdq.pair_of(value) for value in node.inputs[:2])
    if (
        given is None
        or weight is None
        or given.quantize is None
        or weight.quantize is None
        or given.axis is not None
    ):
        return False
    array = qdq.constant(weight.source)
    if (
        array is None
        or array.ndim != 4
        or array.shape[2:] != (1, 1)
        or weight.axis not in {None, 0}
    ):
        return False
    attributes = node.attributes
    moves = any(attributes.get_ints("pads", [])) or any(
        step != 1 for step in attributes.get_ints("strides", [])
    )
    padded = moves or attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
    return not padded and attributes.get_int("group", 1) == 1 and not output_is_quantized(node)


def _replace(graph: ir.Graph, node: ir.Node) -> None:
    given, weight = (qdq.pair_of(value) for value in node.inputs[:2])
    assert given is not None
    assert weight is not None
    assert weight.quantize is not None
    name, array = node.name or node.outputs[0].name, qdq.constant(weight.source)
    assert array is not None
    integers = ir.node(
        "Transpose", [given.dequantize.inputs[0]], {"perm": LAST}, name=f"{name}/ChannelsLast"
    )
    pixels = _like(given.dequantize, integers.outputs[0], {}, f"{name}/DequantizeLinear")
    turned = add(graph, f"{weight.source.name}.transposed", array[:, :, 0, 0].T)
    axis = {"axis": 1} if weight.axis is not None else {}
    levels = _like(weight.quantize, turned, axis, f"{name}/WeightQuantizeLinear")
    matrix = _like(weight.dequantize, levels.outputs[0], axis, f"{name}/WeightDequantizeLinear")
    product = ir.node("MatMul", [pixels.outputs[0], matrix.outputs[0]], name=name)
    made = [integers, pixels, levels, matrix, product]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        made.append(ir.node("Add", [product.outputs[0], node.inputs[2]], name=f"{name}/Add"))
    made.append(
        ir.node("Transpose", made[-1].outputs, {"perm": FIRST}, name=f"{name}/ChannelsFirst")
    )
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], made, node.outputs, made[-1].outputs
    )


def _like(node: ir.Node, value: ir.Value, attributes: dict[str, int], name: str) -> ir.Node:
    """A Q or DQ with the scale of this one, on another value."""
    return ir.node(node.op_type, [value, *node.inputs[1:]], attributes, name=name)
