"""A value that is cut in pieces only to be put together again, beside others, is passed whole."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.walk import given, made_by

Piece = tuple[ir.Value, int, int] | None
"""What was cut, and from where to where; None for a value that is no piece of another."""


class JoinSlices(ir.passes.InPlacePass):
    """Concat(x[0:a], x[a:n], y) becomes Concat(x, y), as in the C2f blocks of YOLOv8. No value
    changes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        concats = [node for node in model.graph if node.op_type == "Concat"]
        changed = [_join(node) for node in concats]
        return ir.passes.PassResult(model, modified=any(changed))


def _join(concat: ir.Node) -> bool:
    """Let the node read whole values in place of their pieces; whether there were any."""
    axis = concat.attributes.get_int("axis")
    pieces = [_piece(value, axis) for value in concat.inputs]
    joined = _joined(concat.inputs, pieces, axis)
    if len(joined) == len(concat.inputs):
        return False
    concat.resize_inputs(len(joined))
    for index, value in enumerate(joined):
        concat.replace_input_with(index, value)
    return True


def _joined(
    values: Sequence[ir.Value | None], pieces: Sequence[Piece], axis: int
) -> list[ir.Value | None]:
    """The same values, with every run of pieces that make up a whole replaced by the whole."""
    joined: list[ir.Value | None] = []
    index = 0
    while index < len(values):
        piece, end = pieces[index], _end_of_run(pieces, index, axis)
        joined.append(values[index] if piece is None or end is None else piece[0])
        index = end or index + 1
    return joined


def _end_of_run(pieces: Sequence[Piece], start: int, axis: int) -> int | None:
    """The index behind the pieces, from `start` on, that make up all of what they were cut from;
    None where none do."""
    first = pieces[start]
    if first is None:
        return None
    whole, reached = first[0], 0
    for index, piece in enumerate(pieces[start:], start):
        if piece is None or piece[:2] != (whole, reached):
            return None
        reached = piece[2]
        if whole.shape is not None and reached == whole.shape[axis]:
            return index + 1
    return None


def _piece(value: ir.Value | None, axis: int) -> Piece:
    """Where the value is a Slice of another one along this axis, in steps of 1."""
    node = made_by(value, "Slice")
    whole = given(node, 0)
    limits = None if node is None else _limits(node, axis)
    if whole is None or whole.shape is None or limits is None:
        return None
    start, end = limits
    size = whole.shape[axis]
    if not isinstance(size, int) or start < 0:
        return None
    return whole, start, min(end, size) if end >= 0 else size + end


def _limits(node: ir.Node, axis: int) -> tuple[int, int] | None:
    """Start and end of a Slice as the file has them; None where it cuts along another axis, or in
    larger steps."""
    numbers = [qdq.only_number(qdq.constant(value)) for value in node.inputs[1:]]
    match numbers:
        case [float(start), float(end), along] | [float(start), float(end), along, 1]:
            return (int(start), int(end)) if along == axis else None
    return None
