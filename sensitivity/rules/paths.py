"""Walking a graph past what does not matter for quantization."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.walk import given, made_by, source

MOVES_VALUES = frozenset(
    {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"}
    | {"MaxPool", "Slice", "Split", "DepthToSpace", "SpaceToDepth", "Cast"}
)
"""Every value that comes out went in, so a Q or DQ may stand before or after without changing a
result. A Cast between FP32 and FP16 rounds it, which is nothing beside the grid."""

ACTIVATIONS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "Tanh"}
    | {"Sigmoid", "HardSigmoid", "HardSwish", "Silu", "Swish"}
)
QDQ = frozenset(qdq.PAIR)


def attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute of a node, or `default` where the file leaves it out."""
    found = node.attributes.get(name)
    return default if found is None else int(found.as_int())


def block_size(node: ir.Node) -> int:
    """Entries along the axis of a Q or DQ that share a scale; 0 where there is one scale per tensor
    or channel."""
    return attribute(node, "block_size", 0)


def pair_before(value: ir.Value | None) -> qdq.Pair | None:
    """The Q/DQ pair that this value comes from, perhaps through nodes that only move values."""
    found = qdq.pair_of(value)
    while found is None and value is not None:
        value = given(made_by(value, *MOVES_VALUES), 0)
        found = qdq.pair_of(value)
    return found


def quantizers_after(value: ir.Value, through: frozenset[str] = MOVES_VALUES) -> Iterator[ir.Node]:
    """Every QuantizeLinear that this value reaches directly or through operations named in
    `through`, once each."""
    found = [value]
    for current in found:  # which grows on the way
        for node in current.consumers():
            if node.op_type == "QuantizeLinear" and node.inputs[0] is current:
                yield node
            elif node.op_type in through and node.outputs[0] not in found:
                found += node.outputs


def origin(value: ir.Value | None) -> ir.Value | None:
    """The float value behind any Q/DQ pairs and Identity nodes."""
    return None if value is None else source(value, _keeps_value)


def _keeps_value(node: ir.Node) -> bool:
    return node.op_type in QDQ or node.op_type == "Identity"


def grid_type(node: ir.Node) -> str | None:
    """Integer type of a Q or DQ, such as "int8"; None where the file does not say it outright.

    ONNX takes uint8 for a Q whose zero point is left out.
    """
    zero = qdq.zero_point_value(node)
    array = qdq.constant(zero)
    if zero is not None:
        return _type_name(zero) if array is None else array.dtype.name
    return _type_name(node.inputs[0]) if node.op_type == "DequantizeLinear" else None


def _type_name(value: ir.Value | None) -> str | None:
    return None if value is None or value.dtype is None else value.dtype.name.lower()


def steps(nodes: tuple[ir.Node, ...]) -> Iterator[ir.Node]:
    """Every Q, and every DQ that is not the equal partner of the Q before it: one place for each
    thing to report."""
    for node in nodes:
        if node.op_type not in QDQ or node.inputs[0] is None:
            continue
        is_dequantize = node.op_type == "DequantizeLinear"
        before = made_by(node.inputs[0], "QuantizeLinear") if is_dequantize else None
        if before is None or not same_grid(before, node):
            yield node


def same_grid(one: ir.Node, other: ir.Node) -> bool:
    """Whether two Q/DQ nodes have the same scale, zero point and axis. Computed ones are never
    equal, unless shared.

    The scales may be of two types, FP16 and FP32, as long as they are the same number.
    """
    return (
        _same(one.inputs[1], other.inputs[1], types=False)
        and _same(qdq.zero_point_value(one), qdq.zero_point_value(other))
        and (qdq.axis_of(one) == qdq.axis_of(other) or _scalar(one))
    )


def _same(one: ir.Value | None, other: ir.Value | None, *, types: bool = True) -> bool:
    if one is other:
        return True
    a, b = qdq.constant(one), qdq.constant(other)
    if a is None or b is None or (types and a.dtype != b.dtype):
        return False
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _scalar(node: ir.Node) -> bool:
    return qdq.only_number(qdq.constant(node.inputs[1])) is not None
