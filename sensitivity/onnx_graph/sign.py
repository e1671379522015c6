"""What can be told about the sign of a value from the graph alone."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph import qdq

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
    constant = qdq.constant(value)
    if constant is not None:
        return bool((constant >= 0).all()) if constant.dtype.kind in "fiu" else False
    node = value.producer()
    if node is None:
        return False
    if node.op_type in NEVER_NEGATIVE:
        return True
    if node.op_type == "Clip":
        low = qdq.constant(node.inputs[1]) if len(node.inputs) > 1 else None
        return low is not None and bool((low >= 0).all())
    if node.op_type not in KEEPS_SIGN:
        return False
    inputs = node.inputs[:1] if node.op_type in FIRST_ONLY else node.inputs
    return all(given is not None and _non_negative(given, known) for given in inputs)
