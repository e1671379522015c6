"""Writes limits on integers between Q and DQ as one Clip directly after the Q.

x -> Q -> Max(-7) -> Min(7) -> DQ          becomes     x -> Q -> Clip(-7, 7) -> DQ
x -> Q -> Transpose -> Clip(-7, 7) -> DQ   becomes     x -> Q -> Clip(-7, 7) -> Transpose -> DQ
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import RewriteUntilNone, needed, require
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.lift_dequantize import FIRST_INPUT, is_quantized
from sensitivity.onnx_graph.walk import first_input, graph_of, made_by, of_kind, remove_unread

LIMITS = {"Max": 1, "Min": 2}
"""Operation that limits integers from one side -> index of the input of Clip that does the same."""

CAN_BE_BEHIND = FIRST_INPUT - {"Pad"}
"""Operations that a Clip can stand before instead of after. A Pad adds values of its own."""


class OneClipPerPair(ir.passes.InPlacePass):
    """Writes limits on integers as one Clip per pair. No integer changes.

    Limits that the graph computes, and limits per channel, stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        all_three = ir.passes.Sequential(_LimitsAsClips(), _ClipsBeforeMovers(), _ClipsOfClips())
        return ir.passes.PassResult(model, modified=all_three(model).modified)


@dataclass(frozen=True, eq=False)
class _Limited:
    """A Max or Min of integers and one constant number."""

    node: ir.Node
    levels: ir.Value | None
    limit: np.ndarray


class _LimitsAsClips(RewriteUntilNone[ir.Node, _Limited]):
    """Writes a Max or Min of integers and a constant as a Clip."""

    def places(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return of_kind(graph.all_nodes(), *LIMITS)

    def match(self, place: ir.Node) -> _Limited:
        require(len(place.inputs) == 2)
        levels, limit = place.inputs
        # Either input may be the constant.
        if qdq.constant(levels) is not None:
            levels, limit = limit, levels
        number = needed(qdq.constant(limit))
        require(number.size == 1)
        require(qdq.constant(levels) is None)
        require(is_quantized(levels))
        return _Limited(place, levels, number)

    def rewrite(self, graph: ir.Graph, found: _Limited) -> None:
        end = add(graph, f"{found.node.name}_limit", found.limit.reshape(()))
        before_end = [found.levels, None][: LIMITS[found.node.op_type]]
        _replace(found.node, [*before_end, end])


@dataclass(frozen=True, eq=False)
class _Moved:
    """A Clip after an operation that moves one value.

    levels: the value between the two.
    """

    clip: ir.Node
    levels: ir.Value
    mover: ir.Node


class _ClipsBeforeMovers(RewriteUntilNone[ir.Node, _Moved]):
    """Moves a Clip before the operation that moves the integers."""

    def places(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return of_kind(graph.all_nodes(), "Clip")

    def match(self, place: ir.Node) -> _Moved:
        require(qdq.clip_limits(place) is not None)
        levels = needed(place.inputs[0])
        mover = needed(made_by(levels, *CAN_BE_BEHIND))
        require(len(mover.outputs) == 1)
        require(len(levels.uses()) == 1)
        require(not levels.is_graph_output())
        require(is_quantized(levels))
        return _Moved(place, levels, mover)

    def rewrite(self, _: ir.Graph, found: _Moved) -> None:
        clip, mover = found.clip, found.mover
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
        _hand_over(output, found.levels)
        _remove(clip)


@dataclass(frozen=True, eq=False)
class _Double:
    """A Clip of the output of the Clip `before`.

    limits: limits of the two together.
    """

    clip: ir.Node
    before: ir.Node
    limits: np.ndarray


class _ClipsOfClips(RewriteUntilNone[ir.Node, _Double]):
    """Merges two Clips in a row."""

    def places(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return of_kind(graph.all_nodes(), "Clip")

    def match(self, place: ir.Node) -> _Double:
        before = needed(made_by(place.inputs[0], "Clip"))
        require(is_quantized(before.inputs[0]))
        inner, outer = map(needed, map(qdq.clip_limits, (before, place)))
        return _Double(place, before, np.clip(inner, *outer))

    def rewrite(self, graph: ir.Graph, found: _Double) -> None:
        clip, before = found.clip, found.before
        ends = map(qdq.constant, (*before.inputs[1:], *clip.inputs[1:]))
        kind = next(end.dtype for end in ends if end is not None)
        inputs: list[ir.Value | None] = [before.inputs[0]]
        for name, limit in zip(("min", "max"), found.limits, strict=True):
            value = None
            if np.isfinite(limit):
                value = add(graph, f"{clip.name}_{name}", np.asarray(limit, kind))
            inputs.append(value)
        _replace(clip, inputs)
        remove_unread([before])


def _replace(node: ir.Node, inputs: list[ir.Value | None]) -> None:
    """Replace the node by a Clip of these inputs."""
    output = node.outputs[0]
    given = ir.Value(name=f"{output.name}_limited", type=output.type, shape=output.shape)
    clip = ir.Node("", "Clip", inputs, name=node.name, outputs=[given])
    graph_of(node).insert_before(node, clip)
    _hand_over(output, given)
    _remove(node)


def _hand_over(old: ir.Value, new: ir.Value) -> None:
    """Let all readers of the old value read the new one, which takes over the name of a graph
    output."""
    if old.is_graph_output():
        old.name, new.name = f"{old.name}_before", old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _remove(node: ir.Node) -> None:
    graph_of(node).remove(node, safe=True)
