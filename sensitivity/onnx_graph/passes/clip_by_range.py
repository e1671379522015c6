"""A Clip at zero, such as ReLU6, as the range of the quantizer behind it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.walk import value_name

STEPS = 255


class ClipByRange(ir.passes.InPlacePass):
    """Clip from 0 to c in front of one uint8 quantizer with zero point 0 goes: the quantizer ends
    at c itself.

    Its scale becomes c / 255 where it reaches further: all 255 steps then lie where values are, so
    they are finer than those of the file. A runtime can compute the layer in front in integers
    then, for nothing stands between it and its quantizer.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph.all_nodes()):
            top, quantize = _top(node), _only_quantizer(node)
            if quantize is None or top is None:
                continue
            _end_at(model.graph, quantize, top)
            quantize.replace_input_with(0, node.inputs[0])
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _top(node: ir.Node) -> float | None:
    """Where a Clip from 0 ends; None for any other node."""
    limits = qdq.clip_limits(node) if node.op_type == "Clip" else None
    low, high = limits or (-np.inf, np.inf)
    return high if low == 0 < high < np.inf else None


def _only_quantizer(node: ir.Node) -> ir.Node | None:
    """The Q that alone reads the Clip's output, uint8 for the whole tensor with zero point 0."""
    value = node.outputs[0]
    users = list(value.uses())
    if value.is_graph_output() or len(users) != 1 or users[0].node.op_type != "QuantizeLinear":
        return None
    quantize = users[0].node
    scale, zero_point = map(qdq.constant, quantize.inputs[1:3])
    if scale is None or zero_point is None or scale.size != 1:
        return None
    is_plain = zero_point.dtype == np.uint8 and not zero_point.any()
    return quantize if is_plain else None


def _end_at(graph: ir.Graph, quantize: ir.Node, top: float) -> None:
    """Let the quantizer, and those that read it, end at `top` where they end behind it."""
    scale = qdq.constant(quantize.inputs[1])
    assert scale is not None
    if float(scale.item()) * STEPS <= top:
        return
    name = value_name(quantize.inputs[1])
    finer = add(graph, f"{name}.clipped", np.full_like(scale, top / STEPS))
    for each in (quantize, *quantize.outputs[0].consumers()):
        each.replace_input_with(1, finer)
