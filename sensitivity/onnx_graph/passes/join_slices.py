"""Passes a value whole if it is cut into pieces only to be joined again, beside other values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import (
    NoMatch,
    RewriteInTurn,
    match_or_none,
    needed,
    require,
)
from sensitivity.onnx_graph.walk import input_at, made_by, of_kind, size_of

Values = Sequence[ir.Value | None]


@dataclass(frozen=True, eq=False)
class _Joined:
    """A Concat, and the fewer values that it can read instead of its own."""

    concat: ir.Node
    values: Values


@dataclass(frozen=True, eq=False)
class _Piece:
    """What a Slice cuts out of `whole`, from `start` up to but not including `end`."""

    whole: ir.Value
    start: int
    end: int


class JoinSlices(RewriteInTurn[ir.Node, _Joined]):
    """Turns Concat(x[0:a], x[a:n], y) into Concat(x, y), as in the C2f blocks of YOLOv8. No value
    changes."""

    def places(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return of_kind(graph, "Concat")

    def match(self, place: ir.Node) -> _Joined:
        values = _joined(place.inputs, place.attributes.get_int("axis"))
        require(len(values) < len(place.inputs))
        return _Joined(place, values)

    def rewrite(self, _: ir.Graph, found: _Joined) -> None:
        found.concat.resize_inputs(len(found.values))
        for index, value in enumerate(found.values):
            found.concat.replace_input_with(index, value)


def _joined(values: Values, axis: int) -> Values:
    """Return the values with each run of pieces that make up a whole replaced by the whole."""
    match_whole = partial(_whole, axis=axis)
    joined: list[ir.Value | None] = []
    while values:
        value, count = match_or_none(match_whole, values) or (values[0], 1)
        joined.append(value)
        values = values[count:]
    return joined


def _whole(values: Values, axis: int) -> tuple[ir.Value, int]:
    """Return the value that the first values are all pieces of, in order, and their number.

    Raises NoMatch if they are not.
    """
    whole = _piece(values[0], axis).whole
    reached = 0
    for count, value in enumerate(values, 1):
        piece = _piece(value, axis)
        require(piece.whole is whole)
        require(piece.start == reached)
        reached = piece.end
        if reached == size_of(whole, axis):
            return whole, count
    raise NoMatch


def _piece(value: ir.Value | None, axis: int) -> _Piece:
    """Return what the value is a piece of.

    Raises NoMatch unless it is a Slice along this axis, in steps of 1, of a value whose size is
    known.
    """
    node = needed(made_by(value, "Slice"))
    whole = needed(input_at(node, 0))
    size = needed(size_of(whole, axis))
    start, end = _limits(node, axis)
    require(start >= 0)
    return _Piece(whole, start, min(end, size) if end >= 0 else size + end)


def _limits(node: ir.Node, axis: int) -> tuple[int, int]:
    """Return the start and the end of a Slice as the file states them.

    Raises NoMatch if it cuts along another axis, or in larger steps.
    """
    constants = map(qdq.constant, node.inputs[1:])
    numbers = list(map(qdq.only_number, constants))
    require(len(numbers) >= 3)
    start, end, along, step = (*numbers, 1)[:4]
    require((along, step) == (axis, 1))
    return int(needed(start)), int(needed(end))
