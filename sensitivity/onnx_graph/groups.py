"""What belongs together in a traced graph: quantizers that must share one scale, the inputs of
residual adds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.marks import DOMAIN, SumOperand, is_mark
from sensitivity.onnx_graph.walk import (
    first_input,
    given,
    inputs,
    made_by,
    producer,
    readers,
    source,
)

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
    marks = [node for node in model.graph if is_mark(node, "Quantizer")]
    marked = [(first_input(node), node.attributes.get_string("name")) for node in marks]
    return met(model.graph, marked, keeps_values)


def met(
    graph: ir.Graph, readers: Iterable[tuple[ir.Value, str]], keeps: Callable[[ir.Node], bool]
) -> tuple[Meeting, ...]:
    """Readers that see the same values, or parts of what one Concat joins, in the order of
    `readers`.

    keeps: whether an operation's output holds no other values than its first input.
    """
    same = _SameValues()
    joined = []
    for node in graph:
        values = qdq.variable_inputs(node)
        if values and node.op_type == "Concat":
            same.join(*values, *node.outputs)
            joined.append(node.outputs[0])
        elif values and keeps(node):
            same.join(values[0], *node.outputs)
    groups: dict[ir.Value, dict[str, None]] = {}
    for value, name in readers:
        if qdq.constant(value) is None:
            groups.setdefault(same.first(value), {})[name] = None
    concats = set(map(same.first, joined))
    return tuple(
        Meeting("concat" if first in concats else "fan-out", tuple(names))
        for first, names in groups.items()
        if len(names) > 1
    )


class _SameValues:
    """Tensors that hold the same values or parts of one another: a disjoint-set forest."""

    def __init__(self) -> None:
        self._parents: dict[ir.Value, ir.Value] = {}

    def join(self, value: ir.Value, *others: ir.Value) -> None:
        first = self.first(value)
        for other in others:
            self._parents[self.first(other)] = first

    def first(self, value: ir.Value) -> ir.Value:
        """The tensor that stands for all that are joined with this one."""
        while self._parents.get(value, value) is not value:
            value = self._parents[value]
        return value


def residual_layers(model: ir.Model, layers: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """Of each Add of two values: the layers that give them, through BatchNorm and activations, two
    or more.

    model: traced, with marks. layers: names of quantized modules. A quantizer on an input of the
    Add counts for the module that holds it.
    """
    found: dict[tuple[str, ...], None] = {}
    for node in filter(_adds_two_values, model.graph):
        first, second = inputs(node)
        givers = tuple(dict.fromkeys([*_givers(first, layers), *_givers(second, layers)]))
        if len(givers) > 1:
            found[givers] = None
    return tuple(found)


def _adds_two_values(node: ir.Node) -> bool:
    """Whether this is an Add, and neither of its operands is a constant."""
    return node.op_type == "Add" and len(qdq.variable_inputs(node)) == 2


def branched_blocks(model: ir.Model) -> tuple[tuple[str, ...], ...]:
    """RepVGG blocks in their training form: the convolutions of one tensor, two or more, that one
    sum adds up."""
    found: list[tuple[str, ...]] = []
    for node in model.graph:
        if node.op_type in SUMS and not _is_term(node):
            found += _branches_of_sum(node)
    return tuple(found)


def _branches_of_sum(node: ir.Node) -> list[tuple[str, ...]]:
    """The convolutions of each tensor that two or more terms of the sum come from."""
    branches: dict[ir.Value, list[str]] = {}
    for value in _terms(node):
        branch = _branch(value)
        if branch is not None:
            start, module = branch
            branches.setdefault(start, []).append(module)
    return [tuple(modules) for modules in branches.values() if len(modules) > 1]


def residual_operands(model: ir.Model) -> tuple[SumOperand, ...]:
    """Of each Add that joins a weighted branch and a skip connection: what comes over the skip
    connection.

    model: traced, with marks, those of sums too. The other branch ends in a Conv or its BatchNorm,
    with which runtimes fuse the Add. Where both do, the second operand is taken, which is the
    shortcut in `y + shortcut(x)`. An Add that no sum of the model's code gave is left out.
    """
    found: dict[SumOperand, None] = {}
    for node in filter(_adds_two_values, model.graph):
        operand = _skip_connection(node)
        if operand is not None:
            found[operand] = None
    return tuple(found)


def _skip_connection(add: ir.Node) -> SumOperand | None:
    """The operand that comes over the skip connection; None where there is none to quantize."""
    first, second = _operands(add)
    if first is None or second is None:
        return None
    mark = second.producer()
    assert mark is not None
    module, position = mark.attributes.get_string("module"), mark.attributes.get_int("sum")
    first, second = _unmarked(first), _unmarked(second)
    if _of_weighted(first) and not _is_quantized(second):
        return SumOperand(module, position, 1)
    if _of_weighted(second) and not _is_quantized(first):
        return SumOperand(module, position, 0)
    return None


def _operands(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """Both operands in the order of the model's code; the second is None where it is not marked."""
    first, second = node.inputs
    if _is_operand(second):
        return first, second
    return (second, first) if _is_operand(first) else (first, None)


def _is_operand(value: ir.Value | None) -> bool:
    return is_mark(producer(value), "Operand")


def _givers(value: ir.Value, layers: Collection[str]) -> Iterator[str]:
    """The layer that gives this value, and those whose quantizers it passed since."""
    node = value.producer()
    while node is not None and given(node, 0) is not None:
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
        node = producer(node.inputs[0])


def _is_activation(node: ir.Node) -> bool:
    """BatchNorm, or an activation with its value as its first input; x * sigmoid(x) too."""
    if node.op_type != "Mul":
        return node.op_type in ACTIVATIONS
    gate = made_by(node.inputs[1], "Sigmoid", "HardSigmoid")
    return gate is not None and gate.inputs[0] is node.inputs[0]


def _is_term(node: ir.Node) -> bool:
    """Whether this sum is only a term of another one."""
    (value,) = node.outputs
    users = readers(value, lambda user: is_mark(user, "Output"))
    return any(user.op_type in SUMS for user in users)


def _terms(node: ir.Node) -> Iterator[ir.Value]:
    for value in inputs(node):
        inner = made_by(_unmarked(value), *SUMS)
        if inner is None:
            yield value
        else:
            yield from _terms(inner)


def _branch(value: ir.Value) -> tuple[ir.Value, str] | None:
    """(what a convolution reads, the module it is) where one gives this value, perhaps through
    BatchNorm."""
    module = None
    while (node := value.producer()) is not None:
        before = given(node, 0)
        if before is None:
            return None
        if node.op_type == "Conv":
            return (_unquantized(before), module) if module is not None else None
        if is_mark(node, "Output"):
            module = node.attributes.get_string("module")
        elif node.op_type != "BatchNormalization":
            return None
        value = before
    return None


def _unquantized(value: ir.Value) -> ir.Value:
    """The value before the marks behind it."""
    return source(value, lambda node: node.domain == DOMAIN)


def keeps_values(node: ir.Node) -> bool:
    """Whether the output holds no other values than the first input."""
    return node.op_type in SAME_VALUES or qdq.takes_nearest(node) or is_mark(node, "Output")


def _unmarked(value: ir.Value) -> ir.Value:
    """The value before the `Output` and `Operand` marks behind it."""
    return source(value, lambda node: is_mark(node, "Output", "Operand"))


def _of_weighted(value: ir.Value) -> bool:
    norm = made_by(value, "BatchNormalization")
    before = given(norm, 0)
    end = value if before is None else _unmarked(before)
    return made_by(end, *qdq.WEIGHT_INPUT) is not None


def _is_quantized(value: ir.Value) -> bool:
    return is_mark(producer(value), "Quantizer")
