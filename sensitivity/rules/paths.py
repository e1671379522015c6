"""Walks a graph past nodes that do not matter for quantization."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.walk import input_at, made_by, source

if TYPE_CHECKING:
    from sensitivity.rules.base import Hit, Subject

MOVES_VALUES = frozenset(
    {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"}
    | {"MaxPool", "Slice", "Split", "DepthToSpace", "SpaceToDepth", "Cast"}
)
"""Operations whose output values are all input values, so that a Q or DQ may stand before or after
them with the same result. A Cast between FP32 and FP16 rounds, but far less than the grid does."""

ACTIVATIONS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "Tanh"}
    | {"Sigmoid", "HardSigmoid", "HardSwish", "Silu", "Swish"}
)
QDQ = frozenset(qdq.PAIR)


def attribute(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute of a node, or `default` if the file leaves it out."""
    stored = node.attributes.get(name)
    return default if stored is None else int(stored.as_int())


def block_size(node: ir.Node) -> int:
    """Return the number of entries along the axis of a Q or DQ that share a scale; 0 with one scale
    per tensor or channel."""
    return attribute(node, "block_size", 0)


def pair_before(value: ir.Value | None) -> qdq.Pair | None:
    """Return the Q/DQ pair that this value comes from, possibly through nodes that only move
    values."""
    pair = qdq.pair_of(value)
    while pair is None and value is not None:
        value = input_at(made_by(value, *MOVES_VALUES), 0)
        pair = qdq.pair_of(value)
    return pair


def quantizers_after(value: ir.Value, through: frozenset[str] = MOVES_VALUES) -> Iterator[ir.Node]:
    """Yield every QuantizeLinear that this value reaches, directly or through operations in
    `through`, once each."""
    reached = [value]
    for current in reached:  # grows during the loop
        for node in current.consumers():
            if node.op_type == "QuantizeLinear" and node.inputs[0] is current:
                yield node
            elif node.op_type in through and node.outputs[0] not in reached:
                reached += node.outputs


def origin(value: ir.Value | None) -> ir.Value | None:
    """Return the float value behind any Q/DQ pairs and Identity nodes."""
    return None if value is None else source(value, _keeps_value)


def _keeps_value(node: ir.Node) -> bool:
    return node.op_type in QDQ or node.op_type == "Identity"


def grid_type(node: ir.Node) -> str | None:
    """Return the integer type of a Q or DQ, such as "int8"; None if the file does not state it.

    For a Q without a zero point, ONNX takes uint8.
    """
    zero = qdq.zero_point_value(node)
    array = qdq.constant(zero)
    if zero is not None:
        return _type_name(zero) if array is None else array.dtype.name
    return _type_name(node.inputs[0]) if node.op_type == "DequantizeLinear" else None


FP8 = "float8_e4m3fn"
"""FP8 E4M3 as `grid_type` names it."""


def activations_in(subject: Subject, types: Collection[str]) -> list[qdq.Pair]:
    """Return the pairs of activations whose grid has one of these types, as `grid_type` names
    them."""
    found = []
    for pair in subject.pairs:
        of_activation = pair.quantize is not None and not pair.of_weight
        if of_activation and grid_type(pair.dequantize) in types:
            found.append(pair)
    return found


def fp8_activations(subject: Subject) -> Iterator[Hit]:
    """Yield the first FP8 pair on an activation, with the number of all."""
    found = activations_in(subject, {FP8})
    if found:
        yield found[0].name, f"expected activations in INT8, got {len(found)} pairs in FP8"


def _type_name(value: ir.Value | None) -> str | None:
    return None if value is None or value.dtype is None else value.dtype.name.lower()


def steps(nodes: tuple[ir.Node, ...]) -> Iterator[ir.Node]:
    """Yield every Q, and every DQ unless it is the partner of a Q with an equal grid, so that each
    problem is reported once."""
    for node in nodes:
        if node.op_type not in QDQ or node.inputs[0] is None:
            continue
        is_dequantize = node.op_type == "DequantizeLinear"
        before = made_by(node.inputs[0], "QuantizeLinear") if is_dequantize else None
        if before is None or not same_grid(before, node):
            yield node


def same_grid(one: ir.Node, other: ir.Node) -> bool:
    """Return whether two Q/DQ nodes have the same scale, zero point and axis.

    The scales may have different types, FP16 and FP32, if they are the same number. Computed values
    are equal only if they are shared.
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
