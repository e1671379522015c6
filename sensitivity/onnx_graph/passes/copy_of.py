"""Copies a value in a way that ONNX Runtime does not remove."""

from __future__ import annotations

import onnx_ir as ir


def copy_of(value: ir.Value, ending: str, *, named: str | None = None) -> ir.Node:
    """Return a Sum of one value, which costs one copy. ONNX Runtime would remove an Identity before
    it looks for fusions.

    ending: ending of the names of the node and its output.
    named: beginning of the node's name; None for the name of the value.
    """
    same = ir.node("Sum", [value], name=f"{named or value.name}/{ending}")
    same.outputs[0].name = f"{value.name}.{ending}"
    same.outputs[0].type, same.outputs[0].shape = value.type, value.shape
    return same
