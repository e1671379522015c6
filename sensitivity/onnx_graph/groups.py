"""What belongs together in a traced graph: quantizers that must share one scale, the inputs of
residual adds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.marks import DOMAIN, SumOperand, is_mark

SAME_VALUES = {
    "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split",
    "Identity", "Dropout",
}  # fmt: skip
"""Operations that move values, or choose among them, without making new ones. Resize too, where it
takes the nearest."""

ACTIVATIONS = {
    "BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "HardSwish", "Sigmoid",
    "Tanh", "Mish", "Gelu",
    "Softplus", "Identity",
}  # fmt: skip
SUMS = {"Add", "Sum"}


@dataclass(frozen=True)
class Meeting:
    """Quantizers that see the same values ("fan-out"), or parts of what one Concat joins
    ("concat"). Two or more.

    Of a Q/DQ file the operations that read them.
    """

    kind: Literal["fan-out", "concat"]
    quantizers: tuple[str, ...]


def meetings(model: ir.Model) -> tuple[Meeting, ...]:
    """Quantizers that should share one scale, in the graph's order: unequal ones cost a
    requantization in the engine.

    model: traced, with its quantizers still marked. Weights are in no group.
    """
    marks = [
        node for node in model.graph if is_mark(node, "Quantizer") and node.inputs[0] is not None
    ]
    readers = [(node.inputs[0], node.attributes.get_string("name")) for node in marks]
    return met(
        model.graph, [(value, name) for value, name in readers if value is not None], keeps_values
    )


def met(
    graph: ir.Graph, readers: Iterable[tuple[ir.Value, str]], keeps: Callable[[ir.Node], bool]
) -> tuple[Meeting, ...]:
    """Readers that see the same values, or parts of what one Concat joins, in the order of
    `readers`; two or more each.

    readers: (what is read, who reads it); a constant counts for nothing. keeps: whether an
    operation's output holds no other values than its first input.
    """
    parents: dict[ir.Value, ir.Value] = {}
    joined = []
    for node in graph:
        inputs = [
            value for value in node.inputs if value is not None and qdq.constant(value) is None
        ]
        if node.op_type == "Concat" and inputs:
            joined.append(node.outputs[0])
            _join(parents, [*inputs, *node.outputs])
        elif inputs and keeps(node):
            _join(parents, [inputs[0], *node.outputs])
    groups: dict[ir.Value, dict[str, None]] = {}
    for value, name in readers:
        if qdq.constant(value) is None:
            groups.setdefault(_root(parents, value), {})[name] = None
    concats = {_root(parents, value) for value in joined}
    return tuple(
        Meeting("concat" if root in concats else "fan-out", tuple(names))
        for root, names in groups.items()
        if len(names) > 1
    )


def residual_layers(model: ir.Model, layers: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """Of each Add of two values: the layers that give them, through BatchNorm and activations, two
    or more.

    model: traced, with marks. layers: names of quantized modules. A quantizer on an input of the
    Add counts for the module that holds it.
    """
    found: dict[tuple[str, ...], None] = {}
    for node in model.graph:
        inputs = [value for value in node.inputs if value is not None]
        if (
            node.op_type != "Add"
            or len(inputs) != 2
            or any(qdq.constant(value) is not None for value in inputs)
        ):
            continue
        given = dict.fromkeys(name for value in inputs for name in _givers(value, layers))
        if len(given) > 1:
            found[tuple(given)] = None
    return tuple(found)


def branched_blocks(model: ir.Model) -> tuple[tuple[str, ...], ...]:
    """RepVGG blocks in their training form: the convolutions of one tensor, two or more, that one
    sum adds up."""
    found: list[tuple[str, ...]] = []
    for node in model.graph:
        if node.op_type not in SUMS or _is_term(node):
            continue
        branches: dict[ir.Value, list[str]] = {}
        for value in _terms(node):
            branch = _branch(value)
            if branch is not None:
                branches.setdefault(branch[0], []).append(branch[1])
        found += [tuple(names) for names in branches.values() if len(names) > 1]
    return tuple(found)


def residual_operands(model: ir.Model) -> tuple[SumOperand, ...]:
    """Of each Add that joins a weighted branch and a skip connection: what comes over the skip
    connection.

    model: traced, with marks, those of sums too. The other branch ends in a Conv or its BatchNorm,
    with which runtimes fuse the Add. Where both do, the second operand is taken, which is the
    shortcut in `y + shortcut(x)`. An Add that no sum of the model's code gave is left out.
    """
    found: dict[SumOperand, None] = {}
    for node in model.graph:
        if node.op_type != "Add" or any(
            value is None or qdq.constant(value) is not None for value in node.inputs
        ):
            continue
        first, second = _operands(node)
        if first is None or second is None:
            continue
        mark = second.producer()
        assert mark is not None
        module, position = mark.attributes.get_string("module"), mark.attributes.get_int("sum")
        if _of_weighted(_unmarked(first)) and not _is_quantized(_unmarked(second)):
            found[SumOperand(module, position, 1)] = None
        elif _of_weighted(_unmarked(second)) and not _is_quantized(_unmarked(first)):
            found[SumOperand(module, position, 0)] = None
    return tuple(found)


def _operands(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """Both operands in the order of the model's code; the second is None where it is not marked."""
    first, second = node.inputs
    if _is_operand(second):
        return first, second
    return (second, first) if _is_operand(first) else (first, None)


def _is_operand(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    return node is not None and is_mark(node, "Operand")


def _givers(value: ir.Value, layers: Collection[str]) -> Iterator[str]:
    """The layer that gives this value, and those whose quantizers it passed since."""
    node = value.producer()
    while node is not None and node.inputs and node.inputs[0] is not None:
        if is_mark(node, "Quantizer"):
            holder = node.attributes.get_string("name").rpartition(".")[0]
            if holder in layers:
                yield holder
        elif is_mark(node, "Output"):
            module = node.attributes.get_string("module")
            if module in layers:
                yield module
                return
        elif not _is_activation(node):
            return
        node = node.inputs[0].producer()


def _is_activation(node: ir.Node) -> bool:
    """BatchNorm, or an activation with its value as its first input; x * sigmoid(x) too."""
    if node.op_type == "Mul":
        gate = node.inputs[1].producer() if node.inputs[1] is not None else None
        return (
            gate is not None
            and gate.op_type in {"Sigmoid", "HardSigmoid"}
            and gate.inputs[0] is node.inputs[0]
        )
    return node.op_type in ACTIVATIONS


def _is_term(node: ir.Node) -> bool:
    """Whether this sum is only a term of another one."""
    users = [user for value in node.outputs for user in _users(value)]
    return any(user.op_type in SUMS for user in users)


def _users(value: ir.Value) -> Iterator[ir.Node]:
    for user in value.consumers():
        if is_mark(user, "Output"):
            yield from _users(user.outputs[0])
        else:
            yield user


def _terms(node: ir.Node) -> Iterator[ir.Value]:
    for value in node.inputs:
        inner = _unmarked(value).producer() if value is not None else None
        if inner is not None and inner.op_type in SUMS:
            yield from _terms(inner)
        elif value is not None:
            yield value


def _branch(value: ir.Value) -> tuple[ir.Value, str] | None:
    """(what a convolution reads, the module it is) where one gives this value, perhaps through
    BatchNorm."""
    module = None
    node = value.producer()
    while node is not None and node.inputs and node.inputs[0] is not None:
        if is_mark(node, "Output"):
            module = node.attributes.get_string("module")
        elif node.op_type == "Conv":
            return (_unquantized(node.inputs[0]), module) if module is not None else None
        elif node.op_type != "BatchNormalization":
            return None
        node = node.inputs[0].producer()
    return None


def _unquantized(value: ir.Value) -> ir.Value:
    """The value before the marks behind it."""
    node = value.producer()
    while node is not None and node.domain == DOMAIN and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def keeps_values(node: ir.Node) -> bool:
    """Whether the output holds no other values than the first input."""
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
    """The value before the `Output` and `Operand` marks behind it."""
    node = value.producer()
    while node is not None and _is_output_or_operand(node) and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _is_output_or_operand(node: ir.Node) -> bool:
    return is_mark(node, "Output") or is_mark(node, "Operand")


def _of_weighted(value: ir.Value) -> bool:
    node = value.producer()
    if node is not None and node.op_type == "BatchNormalization" and node.inputs[0] is not None:
        node = _unmarked(node.inputs[0]).producer()
    return node is not None and node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def _is_quantized(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.domain == DOMAIN and node.op_type == "Quantizer"
