"""Tells from the graph alone whether a value can be negative."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.walk import input_at

NEVER_NEGATIVE = {"Relu", "Sigmoid", "Softmax", "Abs", "Exp", "HardSigmoid", "Sqrt"}
"""Operations whose output is never negative."""
KEEPS_SIGN = {
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Reshape", "Flatten",
    "Transpose", "Squeeze",
    "Unsqueeze", "Slice", "Split", "Identity", "QuantizeLinear", "DequantizeLinear", "Concat",
    "Add", "Mul", "Max",
    "Dropout", "ReduceMean",
}  # fmt: skip
"""Operations whose output is not negative if none of their inputs is. Resize is not one of them,
since cubic interpolation overshoots."""

FIRST_ONLY = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "QuantizeLinear",
              "DequantizeLinear", "Dropout", "ReduceMean"}  # fmt: skip
"""Operations of KEEPS_SIGN whose output depends on the values of their first input only."""


def non_negative(value: ir.Value | None) -> bool:
    """Return whether the graph proves that no element is below 0. Returns False for None."""
    return _non_negative(value, {})


def _non_negative(value: ir.Value | None, known: dict[ir.Value, bool]) -> bool:
    """Return the same as `non_negative`.

    known: results for other values, to which this one is added.
    """
    if value is None:
        return False
    if value not in known:
        known[value] = False  # until its result is known
        known[value] = _is_proven(value, known)
    return known[value]


def _is_proven(value: ir.Value, known: dict[ir.Value, bool]) -> bool:
    """Return the same for a value that is not in `known` yet."""
    constant, node = qdq.constant(value), value.producer()
    if constant is not None:
        return constant.dtype.kind in "fiu" and _no_element_below_0(constant)
    if node is None:
        return False
    if node.op_type == "Clip":
        return _no_element_below_0(qdq.constant(input_at(node, 1)))
    if node.op_type in FIRST_ONLY:
        return _non_negative(input_at(node, 0), known)
    if node.op_type in KEEPS_SIGN:
        return all(_non_negative(operand, known) for operand in node.inputs)
    return node.op_type in NEVER_NEGATIVE


def _no_element_below_0(array: qdq.Array | None) -> bool:
    """Return whether no element is below 0. Returns False for None."""
    return array is not None and bool((array >= 0).all())
