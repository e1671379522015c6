"""Moves quantizers before operations that only move values, so that integers are moved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import RewriteUntilNone, needed, require
from sensitivity.onnx_graph.walk import graph_of, reader_kinds, remove_unread

CUTS = {"Slice", "Split"}
"""Operations that cut a value into pieces."""


@dataclass(frozen=True, eq=False)
class _Moved:
    """A pair after an operation that only moves values.

    quantize: the Q of the pair.
    move: the operation.
    values: the inputs whose values it moves.
    """

    pair: qdq.Pair
    quantize: ir.Node
    move: ir.Node
    values: list[ir.Value]


class QuantizeBeforeMoves(RewriteUntilNone[qdq.Pair, _Moved]):
    """Turns x -> Slice -> Q -> DQ into x -> Q -> DQ -> Slice. No value changes.

    If a cut value also has readers in float, these get a cut of their own. Other operations with
    such readers stay, since two of them cost more than is gained. Pairs and operations that become
    equal are left to common subexpression elimination.
    """

    def places(self, graph: ir.Graph) -> Iterable[qdq.Pair]:
        return qdq.pairs(graph)

    def match(self, place: qdq.Pair) -> _Moved:
        """Return the pair and the operation before it.

        Raises NoMatch if that operation computes, or must not stand after the pair.
        """
        require(place.axis is None)
        require(not place.output.is_graph_output())
        move = needed(place.source.producer())
        values = qdq.moved_values(move)
        require(values)
        for value in values:
            require(qdq.constant(value) is None)
        require(move.op_type in CUTS or _is_only_quantized(place.source))
        return _Moved(place, needed(place.quantize), move, values)

    def rewrite(self, _: ir.Graph, found: _Moved) -> None:
        _put_before(found)


def _is_only_quantized(value: ir.Value) -> bool:
    """Return whether nothing reads the value in float."""
    return not value.is_graph_output() and reader_kinds(value) <= {"QuantizeLinear"}


def _put_before(moved: _Moved) -> None:
    """Copy the operation after new pairs on the values that it moves, and remove what nothing
    reads any more."""
    pair, move, graph = moved.pair, moved.move, graph_of(moved.pair.dequantize)
    pairs = [_pair_on(value, moved, f".{index}") for index, value in enumerate(moved.values)]
    rounded = [dequantize.outputs[0] for _, dequantize in pairs]
    others = move.inputs[len(rounded) :]
    copy = _copy(move, [*rounded, *others], f".{pair.name}")
    graph.insert_before(move, [*chain.from_iterable(pairs), copy])
    pair.output.replace_all_uses_with(copy.outputs[pair.source.index() or 0])
    remove_unread([pair.dequantize, moved.quantize, move])


def _pair_on(value: ir.Value, moved: _Moved, suffix: str) -> tuple[ir.Node, ir.Node]:
    """Return a pair on this value, equal to the one after the operation."""
    old_quantize, old_dequantize = moved.quantize, moved.pair.dequantize
    quantize = _copy(old_quantize, [value, *old_quantize.inputs[1:]], suffix)
    integers = quantize.outputs[0]
    dequantize = _copy(old_dequantize, [integers, *old_dequantize.inputs[1:]], suffix)
    for node in (quantize, dequantize):
        node.outputs[0].shape = value.shape
    return quantize, dequantize


def _copy(node: ir.Node, inputs: list[ir.Value | None], suffix: str) -> ir.Node:
    """Return the same operation on other inputs, with a suffix on its names."""
    copy = ir.node(
        node.op_type,
        inputs,
        node.attributes,
        num_outputs=len(node.outputs),
        name=f"{node.name}{suffix}",
    )
    for new, old in zip(copy.outputs, node.outputs, strict=True):
        new.name, new.type, new.shape = f"{old.name}{suffix}", old.type, old.shape
    return copy
