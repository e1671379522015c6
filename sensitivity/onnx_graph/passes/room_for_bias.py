"""Weight scales that leave room for the bias in int32, for ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.integer_layers import MARGIN, IntegerLayer, integer_layers
from sensitivity.onnx_graph.levels import along
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.walk import name_of


class RoomForBias(ir.passes.InPlacePass):
    """Raise the scales of weights where the bias does not fit int32 on the grid that ONNX Runtime
    puts it on.

    The weights there are rounded more coarsely: each by at most 2^-32 of the bias, in units of the
    input's scale. The layer gets a pair of its own; other layers keep the one they share.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = [_make_room(model.graph, layer) for layer in list(integer_layers(model.graph))]
        return ir.passes.PassResult(model, modified=any(modified))


def _make_room(graph: ir.Graph, layer: IntegerLayer) -> bool:
    pair, needed = layer.weight, layer.smallest_weight_scale()
    if pair is None or pair.scale is None or needed is None or np.all(needed <= pair.scale):
        return False
    wider = np.where(needed > pair.scale, needed * MARGIN, pair.scale).astype(pair.scale.dtype)
    quantize, dequantize = pair.quantize, pair.dequantize
    scale = add(graph, f"{pair.output.name}.scale_for_bias", wider)
    if quantize is None:
        stored = add(graph, f"{pair.output.name}.for_bias", _on_grid(pair, wider))
    else:
        copy = _copy(quantize, [pair.source, scale, *quantize.inputs[2:]])
        stored = copy.outputs[0]
        graph.insert_before(layer.node, copy)
    copy = _copy(dequantize, [stored, scale, *dequantize.inputs[2:]])
    graph.insert_before(layer.node, copy)
    layer.node.replace_input_with(qdq.WEIGHT_INPUT[layer.node.op_type], copy.outputs[0])
    return True


def _on_grid(pair: qdq.Pair, wider: np.ndarray) -> np.ndarray:
    """The integers of a stored weight on a wider grid."""
    stored = qdq.known(pair.source)
    levels, axis = stored.astype(np.float64), pair.axis_in(stored.ndim)
    scale = qdq.known(pair.dequantize.inputs[1]).astype(np.float64)
    zero = np.zeros(())
    if pair.zero_point is not None:
        zero = along(pair.zero_point.astype(np.float64), axis, stored.ndim)
    ratio = along(scale / wider, axis, stored.ndim)
    return np.asarray(np.rint((levels - zero) * ratio) + zero).astype(stored.dtype)


def _copy(node: ir.Node, inputs: list[ir.Value | None]) -> ir.Node:
    name = f"{name_of(node)}_for_bias"
    copy = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), name=name)
    copy.outputs[0].name = f"{node.outputs[0].name}_for_bias"
    copy.outputs[0].type, copy.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    return copy
