"""A copy of a value that ONNX Runtime does not take out again."""

from __future__ import annotations

import onnx_ir as ir


def copy_of(value: ir.Value, ending: str, *, named: str | None = None) -> ir.Node:
    """Return a Sum of one value: ONNX Runtime takes Identity and its like out before it looks. It
    costs one copy.

    ending: of the names of the node and of what it gives. named: the beginning of the node's name;
    None for that of the value.
    """
    same = ir.node("Sum", [value], name=f"{named or value.name}/{ending}")
    same.outputs[0].name = f"{value.name}.{ending}"
    same.outputs[0].type, same.outputs[0].shape = value.type, value.shape
    return same
