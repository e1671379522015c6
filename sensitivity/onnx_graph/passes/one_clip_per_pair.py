"""Limits on integers between Q and DQ, written as one Clip directly behind the Q.

x -> Q -> Max(-7) -> Min(7) -> DQ          becomes     x -> Q -> Clip(-7, 7) -> DQ
x -> Q -> Transpose -> Clip(-7, 7) -> DQ   becomes     x -> Q -> Clip(-7, 7) -> Transpose -> DQ
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.lift_dequantize import FIRST_INPUT, is_quantized

LIMITS = {"Max": 1, "Min": 2}
"""Operations that limit integers from one side, and which input of a Clip does the same."""

UNLIMITED = (-np.inf, np.inf)


class OneClipPerPair(ir.passes.InPlacePass):
    """The integers are the same. Limits that the graph computes, and limits for each channel, stay
    as they are."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for rewrite in (_as_clip, _before_mover, _with_clip_before):
            changed |= _everywhere(model.graph, rewrite)
        return ir.passes.PassResult(model, modified=changed)


def _everywhere(graph: ir.Graph, rewrite: Callable[[ir.Graph, ir.Node], bool]) -> bool:
    """Rewrite nodes until none is left to be rewritten. Returns whether one was."""
    changed = False
    while any(rewrite(graph, node) for node in list(graph.all_nodes())):
        changed = True
    return changed


def _as_clip(graph: ir.Graph, node: ir.Node) -> bool:
    """Write a Max or Min of integers and a constant as a Clip."""
    if node.op_type not in LIMITS or len(node.inputs) != 2:
        return False
    levels = [value for value in node.inputs if qdq.constant(value) is None and is_quantized(value)]
    limits = [
        value
        for value in node.inputs
        if (array := qdq.constant(value)) is not None and array.size == 1
    ]
    if len(levels) != 1 or len(limits) != 1:
        return False
    array = qdq.constant(limits[0])
    assert array is not None
    inputs: list[ir.Value | None] = [levels[0], None, None][: LIMITS[node.op_type] + 1]
    inputs[LIMITS[node.op_type]] = add(graph, f"{node.name}_limit", array.reshape(()))
    _replace(node, inputs)
    return True


def _before_mover(_: ir.Graph, clip: ir.Node) -> bool:
    """Let a Clip limit the integers before they are moved."""
    levels = clip.inputs[0] if clip.op_type == "Clip" else None
    mover = levels.producer() if levels is not None else None
    if levels is None or mover is None or mover.op_type not in FIRST_INPUT - {"Pad"}:
        return False
    alone = len(mover.outputs) == 1 and len(levels.uses()) == 1 and not levels.is_graph_output()
    if not alone or not is_quantized(levels) or qdq.clip_limits(clip) is None:
        return False
    source, output = mover.inputs[0], clip.outputs[0]
    assert source is not None
    assert mover.graph is not None
    given = ir.Value(name=f"{output.name}_limited", type=source.type, shape=source.shape)
    first = ir.Node(
        "",
        "Clip",
        [source, *clip.inputs[1:]],
        clip.attributes.values(),
        name=clip.name,
        outputs=[given],
    )
    mover.graph.insert_before(mover, first)
    mover.replace_input_with(0, given)
    _hand_over(output, levels)
    _remove(clip)
    return True


def _with_clip_before(graph: ir.Graph, clip: ir.Node) -> bool:
    """Write a Clip of what a Clip gives as one."""
    before = (
        clip.inputs[0].producer() if clip.op_type == "Clip" and clip.inputs[0] is not None else None
    )
    if before is None or before.op_type != "Clip" or not is_quantized(before.inputs[0]):
        return False
    inner, outer = qdq.clip_limits(before), qdq.clip_limits(clip)
    if inner is None or outer is None:
        return False
    low, high = (min(max(end, outer[0]), outer[1]) for end in inner)
    kind = next(
        array.dtype
        for value in (*before.inputs[1:], *clip.inputs[1:])
        if (array := qdq.constant(value)) is not None
    )
    ends = [
        add(graph, f"{clip.name}_{name}", np.asarray(end, kind)) if np.isfinite(end) else None
        for name, end in (("min", low), ("max", high))
    ]
    _replace(clip, [before.inputs[0], *ends])
    if not before.outputs[0].uses() and not before.outputs[0].is_graph_output():
        _remove(before)
    return True


def _replace(node: ir.Node, inputs: list[ir.Value | None]) -> None:
    """Put a Clip of these inputs in the node's place."""
    output = node.outputs[0]
    given = ir.Value(name=f"{output.name}_limited", type=output.type, shape=output.shape)
    assert node.graph is not None
    node.graph.insert_before(node, ir.Node("", "Clip", inputs, name=node.name, outputs=[given]))
    _hand_over(output, given)
    _remove(node)


def _hand_over(old: ir.Value, new: ir.Value) -> None:
    if old.is_graph_output():
        old.name, new.name = f"{old.name}_before", old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _remove(node: ir.Node) -> None:
    assert node.graph is not None
    node.graph.remove(node, safe=True)
