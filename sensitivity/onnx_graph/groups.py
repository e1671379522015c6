"""Finds what belongs together in a traced graph: quantizers that must share one scale, inputs of
residual adds, and branches of RepVGG blocks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, filterfalse, takewhile
from typing import Literal

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.marks import (
    DOMAIN,
    SumOperand,
    is_mark,
    mark_before,
    marks_in,
    module_of,
    quantizer_of,
)
from sensitivity.onnx_graph.matching import matches, needed, require
from sensitivity.onnx_graph.walk import (
    first_input,
    inputs,
    made_by,
    never,
    of_kind,
    readers,
    source,
    terms,
    upstream,
)

SAME_VALUES = {
    "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split",
    "Identity", "Dropout",
}  # fmt: skip
"""Operations that move values, or choose among them, without computing new ones. A Resize that
takes the nearest value is another, see `keeps_values`."""

ACTIVATIONS = {
    "BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "HardSwish", "Sigmoid",
    "Tanh", "Mish", "Gelu",
    "Softplus", "Identity",
}  # fmt: skip
SUMS = {"Add", "Sum"}
GATES = {"Sigmoid", "HardSigmoid"}
"""Operations whose output times their input is an activation: SiLU and HardSwish."""

MeetingKind = Literal["fan-out", "concat"]


@dataclass(frozen=True)
class Meeting:
    """Two or more quantizers that see the same values ("fan-out"), or parts of what one Concat
    joins ("concat").

    quantizers: their names. For a Q/DQ file, the names of the readers instead: units or uses.
    """

    kind: MeetingKind
    quantizers: tuple[str, ...]


def meetings(model: ir.Model) -> tuple[Meeting, ...]:
    """Return the quantizers that should share one scale, in the graph's order.

    Different scales would cost a requantization in the engine. Weights are in no group.

    model: traced, with its quantizers still marked.
    """
    marks = marks_in(model.graph, "Quantizer")
    marked = [(first_input(mark), quantizer_of(mark)) for mark in marks]
    return met(model.graph, marked, keeps_values)


def met(
    graph: ir.Graph, readers: Iterable[tuple[ir.Value, str]], keeps: Callable[[ir.Node], bool]
) -> tuple[Meeting, ...]:
    """Return the readers that see the same values, or parts of what one Concat joins, in the order
    of `readers`.

    readers: a value and the name of what reads it.
    keeps: whether a node's output holds no other values than its first input.
    """
    same = _SameValues()
    joined = []
    for node in graph:
        values = _values_kept(node, keeps)
        if not values:
            continue
        same.join(*values, *node.outputs)
        if node.op_type == "Concat":
            joined.append(node.outputs[0])
    groups: defaultdict[ir.Value, dict[str, None]] = defaultdict(dict)
    for value, name in readers:
        if qdq.constant(value) is None:
            groups[same.first(value)][name] = None
    kinds: dict[ir.Value, MeetingKind] = dict.fromkeys(map(same.first, joined), "concat")
    meetings = []
    for first, names in groups.items():
        if len(names) > 1:
            meetings.append(Meeting(kinds.get(first, "fan-out"), tuple(names)))
    return tuple(meetings)


def _values_kept(node: ir.Node, keeps: Callable[[ir.Node], bool]) -> list[ir.Value]:
    """Return the inputs that are not constants and whose values, or parts of them, the output
    holds."""
    values = qdq.variable_inputs(node)
    if node.op_type == "Concat":
        return values
    if keeps(node):
        return values[:1]
    return []


class _SameValues:
    """Groups of tensors that hold the same values, or parts of one another, as a disjoint-set
    forest."""

    def __init__(self) -> None:
        self._parents: dict[ir.Value, ir.Value] = {}

    def join(self, value: ir.Value, *others: ir.Value) -> None:
        first = self.first(value)
        for other in others:
            self._parents[self.first(other)] = first

    def first(self, value: ir.Value) -> ir.Value:
        """Return the tensor that stands for the group of this one."""
        while self._parents.get(value, value) is not value:
            value = self._parents[value]
        return value


def residual_layers(model: ir.Model, layers: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """Return, for each Add of two values, the layers that give them, through BatchNorm and
    activations.

    An Add with fewer than two such layers is left out. A quantizer on an input of the Add counts
    for the module that holds it.

    model: traced, with marks.
    layers: names of quantized modules.
    """
    groups: dict[tuple[str, ...], None] = {}
    for node in filter(_adds_two_values, model.graph):
        first, second = inputs(node)
        givers = tuple(dict.fromkeys([*_givers(first, layers), *_givers(second, layers)]))
        if len(givers) > 1:
            groups[givers] = None
    return tuple(groups)


def _adds_two_values(node: ir.Node) -> bool:
    """Return whether this is an Add and neither of its operands is a constant."""
    return node.op_type == "Add" and len(qdq.variable_inputs(node)) == 2


def branched_blocks(model: ir.Model) -> tuple[tuple[str, ...], ...]:
    """Return the RepVGG blocks in their training form: two or more convolutions of one tensor whose
    outputs one sum adds."""
    sums = filterfalse(_is_term, of_kind(model.graph, *SUMS))
    return tuple(chain.from_iterable(map(_branches_of_sum, sums)))


def _branches_of_sum(node: ir.Node) -> list[tuple[str, ...]]:
    """Return, for each tensor, the convolutions of it that are terms of this sum, if there are two
    or more."""
    branches: defaultdict[ir.Value, list[str]] = defaultdict(list)
    for start, module in matches(_branch, terms(node, SUMS, _is_operand_mark)):
        branches[start].append(module)
    return [tuple(modules) for modules in branches.values() if len(modules) > 1]


def residual_operands(model: ir.Model) -> tuple[SumOperand, ...]:
    """Return, for each Add that joins a weighted branch and a skip connection, the operand of the
    skip connection.

    The weighted branch ends in an operation with a weight, or its BatchNorm, with which runtimes
    fuse the Add. If both branches do, the second operand is taken, which is the shortcut in `y +
    shortcut(x)`. An Add that does not come from a sum in the model's code is left out.

    model: traced, with marks, including those of sums.
    """
    return tuple(dict.fromkeys(matches(_skip_connection, model.graph)))


def _skip_connection(add: ir.Node) -> SumOperand:
    """Return the operand of the skip connection. Raises NoMatch if there is none to quantize."""
    require(_adds_two_values(add))
    operands = inputs(add)
    mark = needed(_operand_mark(add))
    # The mark is on the second operand of the sum in the model's code.
    is_swapped = mark.outputs[0] is operands[0]
    first, second = map(_unmarked, reversed(operands) if is_swapped else operands)
    module, position = module_of(mark), mark.attributes.get_int("sum")
    if _can_skip(second, first):
        return SumOperand(module, position, 1)
    require(_can_skip(first, second))
    return SumOperand(module, position, 0)


def _operand_mark(add: ir.Node) -> ir.Node | None:
    """Return the mark on the operand that comes second in the model's code; None if no sum in the
    code gave this Add."""
    first, second = add.inputs
    return mark_before(second, "Operand") or mark_before(first, "Operand")


def _can_skip(operand: ir.Value, other: ir.Value) -> bool:
    """Return whether an operand of a sum has no quantizer and the other one comes from a weighted
    branch."""
    return _of_weighted(other) and mark_before(operand, "Quantizer") is None


def _givers(value: ir.Value, layers: Collection[str]) -> Iterator[str]:
    """Yield the layer that gives this value, and the layers that hold the quantizers on the way."""
    for node in takewhile(_keeps_layer, upstream(value)):
        layer = _layer_of(node)
        if layer is None or layer not in layers:
            continue
        yield layer
        if is_mark(node, "Output"):
            return


def _keeps_layer(node: ir.Node) -> bool:
    """Return whether the output of this node still counts for the layer that gives its input."""
    return is_mark(node, "Quantizer", "Output") or is_activation(node)


def _layer_of(node: ir.Node) -> str | None:
    """Return the module of an `Output` mark, or the module that holds the quantizer of a
    `Quantizer` mark; None for another node."""
    if is_mark(node, "Output"):
        return module_of(node)
    if is_mark(node, "Quantizer"):
        return quantizer_of(node).rpartition(".")[0]
    return None


def is_activation(node: ir.Node, passes: Callable[[ir.Node], bool] = never) -> bool:
    """Return whether this is a BatchNorm, or an activation of its first input, including x *
    sigmoid(x).

    passes: true of nodes that may stand between the nodes of x * sigmoid(x).
    """
    if node.op_type != "Mul":
        return node.op_type in ACTIVATIONS
    value, gated = (source(operand, passes) for operand in inputs(node))
    gate = made_by(gated, *GATES)
    if gate is None:
        return False
    return source(first_input(gate), passes) is value


def _is_term(node: ir.Node) -> bool:
    """Return whether this sum is only a term of another sum."""
    (value,) = node.outputs
    users = readers(value, lambda user: is_mark(user, "Output"))
    return bool(of_kind(users, *SUMS))


def _branch(value: ir.Value) -> tuple[ir.Value, str]:
    """Return the input of the convolution that gives this value, perhaps through BatchNorm, and its
    module.

    Raises NoMatch if no convolution gives the value.
    """
    passed = list(takewhile(_ends_branch, upstream(value)))
    marks = [node for node in passed if is_mark(node, "Output")]
    require(len(marks) > 0)
    conv = needed(made_by(first_input(passed[-1]), "Conv"))
    return _unquantized(first_input(conv)), module_of(marks[-1])


def _ends_branch(node: ir.Node) -> bool:
    """Return whether this node may follow the convolution of a branch: a mark of an output, or
    BatchNorm."""
    return is_mark(node, "Output") or node.op_type == "BatchNormalization"


def _unquantized(value: ir.Value) -> ir.Value:
    """Return the value before the marks that give this one."""
    return source(value, lambda node: node.domain == DOMAIN)


def keeps_values(node: ir.Node) -> bool:
    """Return whether the output holds no other values than the first input."""
    return node.op_type in SAME_VALUES or qdq.takes_nearest(node) or is_mark(node, "Output")


def _unmarked(value: ir.Value) -> ir.Value:
    """Return the value before the `Output` and `Operand` marks that give this one."""
    return source(value, _is_operand_mark)


def _is_operand_mark(node: ir.Node) -> bool:
    return is_mark(node, "Output", "Operand")


def _of_weighted(value: ir.Value) -> bool:
    """Return whether an operation with a weight gives this value, directly or through BatchNorm."""
    norm = made_by(value, "BatchNormalization")
    end = value if norm is None else _unmarked(first_input(norm))
    return made_by(end, *qdq.WEIGHT_INPUT) is not None
