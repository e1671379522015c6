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
from sensitivity.onnx_graph.walk import first_input, graph_of, is_read, made_by

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
    # Either of the two inputs may be the constant.
    levels, limit = node.inputs
    if qdq.constant(levels) is not None:
        levels, limit = limit, levels
    array = qdq.constant(limit)
    if array is None or array.size != 1:
        return False
    if qdq.constant(levels) is not None or not is_quantized(levels):
        return False
    end = add(graph, f"{node.name}_limit", array.reshape(()))
    is_lower_end = LIMITS[node.op_type] == 1
    _replace(node, [levels, end] if is_lower_end else [levels, None, end])
    return True


def _before_mover(_: ir.Graph, clip: ir.Node) -> bool:
    """Let a Clip limit the integers before they are moved."""
    if clip.op_type != "Clip" or qdq.clip_limits(clip) is None:
        return False
    levels = clip.inputs[0]
    mover = made_by(levels, *FIRST_INPUT - {"Pad"})
    if levels is None or mover is None or not _reads_alone(levels, mover):
        return False
    source, output = first_input(mover), clip.outputs[0]
    given = ir.Value(name=f"{output.name}_limited", type=source.type, shape=source.shape)
    first = ir.Node(
        "",
        "Clip",
        [source, *clip.inputs[1:]],
        clip.attributes.values(),
        name=clip.name,
        outputs=[given],
    )
    graph_of(mover).insert_before(mover, first)
    mover.replace_input_with(0, given)
    _hand_over(output, levels)
    _remove(clip)
    return True


def _reads_alone(levels: ir.Value, mover: ir.Node) -> bool:
    """Whether moved integers have one reader, and are all that the operation gives."""
    if levels.is_graph_output() or len(levels.uses()) != 1:
        return False
    return len(mover.outputs) == 1 and is_quantized(levels)


def _with_clip_before(graph: ir.Graph, clip: ir.Node) -> bool:
    """Write a Clip of what a Clip gives as one."""
    before = made_by(clip.inputs[0], "Clip") if clip.op_type == "Clip" else None
    if before is None or not is_quantized(before.inputs[0]):
        return False
    inner, outer = qdq.clip_limits(before), qdq.clip_limits(clip)
    if inner is None or outer is None:
        return False
    ends = map(qdq.constant, (*before.inputs[1:], *clip.inputs[1:]))
    kind = next(end.dtype for end in ends if end is not None)
    inputs: list[ir.Value | None] = [before.inputs[0]]
    for name, end in zip(("min", "max"), inner, strict=True):
        limited = min(max(end, outer[0]), outer[1])
        value = None
        if np.isfinite(limited):
            value = add(graph, f"{clip.name}_{name}", np.asarray(limited, kind))
        inputs.append(value)
    _replace(clip, inputs)
    if not is_read(before):
        _remove(before)
    return True


def _replace(node: ir.Node, inputs: list[ir.Value | None]) -> None:
    """Put a Clip of these inputs in the node's place."""
    output = node.outputs[0]
    given = ir.Value(name=f"{output.name}_limited", type=output.type, shape=output.shape)
    clip = ir.Node("", "Clip", inputs, name=node.name, outputs=[given])
    graph_of(node).insert_before(node, clip)
    _hand_over(output, given)
    _remove(node)


def _hand_over(old: ir.Value, new: ir.Value) -> None:
    if old.is_graph_output():
        old.name, new.name = f"{old.name}_before", old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _remove(node: ir.Node) -> None:
    graph_of(node).remove(node, safe=True)
