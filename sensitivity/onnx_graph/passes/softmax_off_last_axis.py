"""Spells out a Softmax over an axis that is not the last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph.matching import matches, needed, require
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.walk import first_input, name_of, of_kind

# First opsets in which Softmax is over one axis, and ReduceMax takes its axes as an input.
ONE_AXIS_FROM, MAX_AXES_AS_INPUT_FROM = 13, 18


class SoftmaxOffLastAxis(ir.passes.InPlacePass):
    """Replaces a Softmax over another axis than the last by exp(x - max) / sum. Values change by
    float rounding.

    ONNX Runtime's Softmax on CPUs transposes such an input, works on single rows, and transposes
    back: on [1, 16, 4, 8400], the box distribution of YOLOv8 at 640 pixels, it takes ten times as
    long as these five operations. Below opset 13, Softmax means all axes from its own on, and is
    left unchanged.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.opset_imports.get("", 0)
        if opset < ONE_AXIS_FROM:
            return ir.passes.PassResult(model, modified=False)
        softmaxes = of_kind(model.graph, "Softmax")
        found = list(matches(_off_last_axis, softmaxes))
        for softmax in found:
            _spell_out(model.graph, softmax, opset)
        return ir.passes.PassResult(model, modified=bool(found))


@dataclass(frozen=True, eq=False)
class _Softmax:
    """A Softmax with its axis, counted from the front."""

    node: ir.Node
    axis: int


def _off_last_axis(node: ir.Node) -> _Softmax:
    """Return the Softmax. Raises NoMatch if its axis is the last one, or the input's rank is not
    known."""
    value = needed(node.inputs[0])
    rank = len(needed(value.shape))
    axis = node.attributes.get_int("axis", -1) % rank
    require(axis != rank - 1)
    return _Softmax(node, axis)


def _spell_out(graph: ir.Graph, softmax: _Softmax, opset: int) -> None:
    """Replace the Softmax by five operations."""
    node, axis = softmax.node, softmax.axis
    value, output, name = first_input(node), node.outputs[0], name_of(node)
    axes = add(graph, f"{name}.axes", np.array([axis], np.int64))
    # Up to opset 17, ReduceMax takes its axes as an attribute and ReduceSum as an input.
    inputs, attributes = [value], {"axes": [axis], "keepdims": 1}
    if opset >= MAX_AXES_AS_INPUT_FROM:
        inputs, attributes = [value, axes], {"keepdims": 1}
    largest = ir.node("ReduceMax", inputs, attributes, name=f"{name}/ReduceMax")
    lowered = ir.node("Sub", [value, largest.outputs[0]], name=f"{name}/Sub")
    powers = ir.node("Exp", lowered.outputs, name=f"{name}/Exp")
    total = ir.node(
        "ReduceSum", [powers.outputs[0], axes], {"keepdims": 1}, name=f"{name}/ReduceSum"
    )
    share = ir.node("Div", [powers.outputs[0], total.outputs[0]], name=f"{name}/Div")
    nodes = [largest, lowered, powers, total, share]
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [output], share.outputs)
