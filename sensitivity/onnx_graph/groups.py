"""Which activation quantizers must share one scale, and where the residual inputs of skip connections are."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.marks import DOMAIN, is_mark

SAME_VALUES = {
    "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Identity", "Dropout",
}  # fmt: skip
"""Operations that move values, or choose among them, without making new ones. Resize too, where it takes the nearest."""


def shared_scales(model: ir.Model) -> tuple[tuple[str, ...], ...]:
    """Groups of two or more quantizers, in the graph's order, that see the same values or parts of one Concat.

    model: traced, with its quantizers still marked. Unequal scales there cost a requantization in the engine. Weights
    are in no group.
    """
    parents: dict[ir.Value, ir.Value] = {}
    for node in model.graph:
        inputs = [value for value in node.inputs if value is not None and qdq.constant(value) is None]
        if node.op_type == "Concat":
            _join(parents, [*inputs, *node.outputs])
        elif inputs and _keeps_values(node):
            _join(parents, [inputs[0], *node.outputs])
    groups: dict[ir.Value, dict[str, None]] = {}
    for node in model.graph:
        source = node.inputs[0] if is_mark(node, "Quantizer") else None
        if source is not None and qdq.constant(source) is None:
            groups.setdefault(_root(parents, source), {})[node.attributes.get_string("name")] = None
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def residual_inputs(model: ir.Model) -> tuple[ir.Value, ...]:
    """Of each Add that joins a weighted branch and a skip connection: the value that comes over the skip connection.

    model: traced, with marks. The other branch ends in a Conv or its BatchNorm, with which runtimes fuse the Add. Where
    both do, the second input of the Add is taken, which is the shortcut in `y + shortcut(x)`.
    """
    found: dict[ir.Value, None] = {}
    for node in model.graph:
        if node.op_type != "Add" or any(value is None or qdq.constant(value) is not None for value in node.inputs):
            continue
        first, second = (_unmarked(value) for value in node.inputs if value is not None)
        if _of_weighted(first):
            found[second] = None
        elif _of_weighted(second):
            found[first] = None
    return tuple(value for value in found if not _is_quantized(value))


def _keeps_values(node: ir.Node) -> bool:
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    return node.op_type in SAME_VALUES or is_mark(node, "Output")


def _join(parents: dict[ir.Value, ir.Value], values: list[ir.Value]) -> None:
    first = _root(parents, values[0])
    for value in values[1:]:
        parents[_root(parents, value)] = first


def _root(parents: dict[ir.Value, ir.Value], value: ir.Value) -> ir.Value:
    while parents.get(value, value) is not value:
        value = parents[value]
    return value


def _unmarked(value: ir.Value) -> ir.Value:
    """The value before the `Output` marks behind it."""
    node = value.producer()
    while node is not None and is_mark(node, "Output") and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _of_weighted(value: ir.Value) -> bool:
    node = value.producer()
    if node is not None and node.op_type == "BatchNormalization" and node.inputs[0] is not None:
        node = _unmarked(node.inputs[0]).producer()
    return node is not None and node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def _is_quantized(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.domain == DOMAIN and node.op_type == "Quantizer"
