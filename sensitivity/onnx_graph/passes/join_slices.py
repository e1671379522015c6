"""A value that is cut in pieces only to be put together again, beside others, is passed whole."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from sensitivity.onnx_graph import qdq

Piece = tuple[ir.Value, int, int] | None
"""What was cut, and from where to where; None for a value that is no piece of another."""


class JoinSlices(ir.passes.InPlacePass):
    """Concat(x[0:a], x[a:n], y) becomes Concat(x, y), as in the C2f blocks of YOLOv8. No value
    changes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in [node for node in model.graph if node.op_type == "Concat"]:
            axis = node.attributes.get_int("axis")
            pieces = [_piece(value, axis) for value in node.inputs]
            joined = _joined(node.inputs, pieces, axis)
            if len(joined) < len(node.inputs):
                node.resize_inputs(len(joined))
                for index, value in enumerate(joined):
                    node.replace_input_with(index, value)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


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
    reached, first = 0, pieces[start]
    for index, piece in enumerate(pieces[start:], start):
        if piece is None or first is None or piece[0] is not first[0] or piece[1] != reached:
            return None
        reached = piece[2]
        shape = piece[0].shape
        if shape is not None and reached == shape[axis]:
            return index + 1
    return None


def _piece(value: ir.Value | None, axis: int) -> Piece:
    """Where the value is a Slice of another one along this axis, in steps of 1."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Slice" or len(node.inputs) < 4 or node.inputs[0] is None:
        return None
    numbers = [qdq.constant(given) for given in node.inputs[1:]]
    if any(given is None or given.size != 1 for given in numbers):
        return None
    start, end, along, *step = (int(given.item()) for given in numbers if given is not None)
    size = node.inputs[0].shape[axis] if node.inputs[0].shape is not None else None
    if along != axis or step not in ([], [1]) or not isinstance(size, int) or start < 0:
        return None
    return node.inputs[0], start, min(end, size) if end >= 0 else size + end
