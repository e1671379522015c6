"""What can be told about the sign of a value from the graph alone."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.walk import given

NEVER_NEGATIVE = {"Relu", "Sigmoid", "Softmax", "Abs", "Exp", "HardSigmoid", "Sqrt"}
KEEPS_SIGN = {
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Reshape", "Flatten",
    "Transpose", "Squeeze",
    "Unsqueeze", "Slice", "Split", "Identity", "QuantizeLinear", "DequantizeLinear", "Concat",
    "Add", "Mul", "Max",
    "Dropout", "ReduceMean",
}  # fmt: skip
"""Operations that give no negative value where none of their inputs is negative. Not Resize: cubic
overshoots."""

FIRST_ONLY = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "QuantizeLinear",
              "DequantizeLinear", "Dropout", "ReduceMean"}  # fmt: skip


def non_negative(value: ir.Value | None) -> bool:
    """Whether the graph proves that no element is below 0."""
    return value is not None and _non_negative(value, {})


def _non_negative(value: ir.Value, known: dict[ir.Value, bool]) -> bool:
    if value not in known:
        known[value] = False  # while it is looked at
        known[value] = _from_producer(value, known)
    return known[value]


def _from_producer(value: ir.Value, known: dict[ir.Value, bool]) -> bool:
    constant, node = qdq.constant(value), value.producer()
    if constant is not None:
        return constant.dtype.kind in "fiu" and _no_element_below_0(constant)
    if node is None:
        return False
    if node.op_type == "Clip":
        low = qdq.constant(given(node, 1))
        return low is not None and _no_element_below_0(low)
    if node.op_type in KEEPS_SIGN:
        read = node.inputs[:1] if node.op_type in FIRST_ONLY else node.inputs
        return all(each is not None and _non_negative(each, known) for each in read)
    return node.op_type in NEVER_NEGATIVE


def _no_element_below_0(array: qdq.Array) -> bool:
    return bool((array >= 0).all())
