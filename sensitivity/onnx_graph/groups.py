"""What belongs together in a traced graph: quantizers that must share one scale, the inputs of
residual adds."""

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
    mark_behind,
    marks_in,
    module_of,
    quantizer_of,
)
from sensitivity.onnx_graph.matching import matches, needed, require
from sensitivity.onnx_graph.walk import (
    before,
    first_input,
    inputs,
    made_by,
    of_kind,
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
GATES = {"Sigmoid", "HardSigmoid"}
"""Operations whose output times their input is an activation: SiLU and HardSwish."""

MeetingKind = Literal["fan-out", "concat"]


@dataclass(frozen=True)
class Meeting:
    """Quantizers that see the same values ("fan-out"), or parts of what one Concat joins
    ("concat"). Two or more.

    Of a Q/DQ file the operations that read them.
    """

    kind: MeetingKind
    quantizers: tuple[str, ...]


def meetings(model: ir.Model) -> tuple[Meeting, ...]:
    """Return the quantizers that should share one scale, in the graph's order: unequal ones cost a
    requantization in the engine.

    model: traced, with its quantizers still marked. Weights are in no group.
    """
    marks = marks_in(model.graph, "Quantizer")
    marked = [(first_input(mark), quantizer_of(mark)) for mark in marks]
    return met(model.graph, marked, keeps_values)


def met(
    graph: ir.Graph, readers: Iterable[tuple[ir.Value, str]], keeps: Callable[[ir.Node], bool]
) -> tuple[Meeting, ...]:
    """Return the readers that see the same values, or parts of what one Concat joins, in the order
    of `readers`.

    keeps: whether an operation's output holds no other values than its first input.
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
    found = []
    for first, names in groups.items():
        if len(names) > 1:
            found.append(Meeting(kinds.get(first, "fan-out"), tuple(names)))
    return tuple(found)


def _values_kept(node: ir.Node, keeps: Callable[[ir.Node], bool]) -> list[ir.Value]:
    """Return the computed inputs whose values are those of the output, or parts of them."""
    values = qdq.variable_inputs(node)
    if node.op_type == "Concat":
        return values
    if keeps(node):
        return values[:1]
    return []


class _SameValues:
    """Tensors that hold the same values or parts of one another: a disjoint-set forest."""

    def __init__(self) -> None:
        self._parents: dict[ir.Value, ir.Value] = {}

    def join(self, value: ir.Value, *others: ir.Value) -> None:
        first = self.first(value)
        for other in others:
            self._parents[self.first(other)] = first

    def first(self, value: ir.Value) -> ir.Value:
        """Return the tensor that stands for all that are joined with this one."""
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
    """Return whether this is an Add, and neither of its operands is a constant."""
    return node.op_type == "Add" and len(qdq.variable_inputs(node)) == 2


def branched_blocks(model: ir.Model) -> tuple[tuple[str, ...], ...]:
    """RepVGG blocks in their training form: the convolutions of one tensor, two or more, that one
    sum adds up."""
    sums = filterfalse(_is_term, of_kind(model.graph, *SUMS))
    return tuple(chain.from_iterable(map(_branches_of_sum, sums)))


def _branches_of_sum(node: ir.Node) -> list[tuple[str, ...]]:
    """Of each tensor that several terms of the sum are convolutions of: those convolutions."""
    branches: defaultdict[ir.Value, list[str]] = defaultdict(list)
    for start, module in matches(_branch, _terms(node)):
        branches[start].append(module)
    return [tuple(modules) for modules in branches.values() if len(modules) > 1]


def residual_operands(model: ir.Model) -> tuple[SumOperand, ...]:
    """Of each Add that joins a weighted branch and a skip connection: what comes over the skip
    connection.

    model: traced, with marks, those of sums too. The other branch ends in a Conv or its BatchNorm,
    with which runtimes fuse the Add. Where both do, the second operand is taken, which is the
    shortcut in `y + shortcut(x)`. An Add that no sum of the model's code gave is left out.
    """
    return tuple(dict.fromkeys(matches(_skip_connection, model.graph)))


def _skip_connection(add: ir.Node) -> SumOperand:
    """Return the operand that comes over the skip connection. Raises NoMatch where there is none to
    quantize."""
    require(_adds_two_values(add))
    operands = inputs(add)
    mark = needed(_operand_mark(add))
    # The mark stands behind the second operand of the sum in the model's code.
    is_swapped = mark.outputs[0] is operands[0]
    first, second = map(_unmarked, reversed(operands) if is_swapped else operands)
    module, position = module_of(mark), mark.attributes.get_int("sum")
    if _can_skip(second, first):
        return SumOperand(module, position, 1)
    require(_can_skip(first, second))
    return SumOperand(module, position, 0)


def _operand_mark(add: ir.Node) -> ir.Node | None:
    """Return the mark behind the second operand in the order of the model's code; None where no sum
    of it gave the Add."""
    first, second = add.inputs
    return mark_behind(second, "Operand") or mark_behind(first, "Operand")


def _can_skip(operand: ir.Value, other: ir.Value) -> bool:
    """Return whether an operand of a sum has no quantizer, and the other one comes from a weighted
    branch."""
    return _of_weighted(other) and mark_behind(operand, "Quantizer") is None


def _givers(value: ir.Value, layers: Collection[str]) -> Iterator[str]:
    """Yield the layer that gives this value, and those whose quantizers it passed since."""
    for node in takewhile(_keeps_layer, before(value)):
        layer = _layer_of(node)
        if layer is None or layer not in layers:
            continue
        yield layer
        if is_mark(node, "Output"):
            return


def _keeps_layer(node: ir.Node) -> bool:
    """Return whether what the node gives counts for the layer that gives its input."""
    return is_mark(node, "Quantizer", "Output") or is_activation(node)


def _layer_of(node: ir.Node) -> str | None:
    """Return the module that a mark of an output is of, or that holds its quantizer; None for
    another node."""
    if is_mark(node, "Output"):
        return module_of(node)
    if is_mark(node, "Quantizer"):
        return quantizer_of(node).rpartition(".")[0]
    return None


def _never(_: ir.Node) -> bool:
    """Return whether an operation may be passed, where none may."""
    return False


def is_activation(node: ir.Node, passes: Callable[[ir.Node], bool] = _never) -> bool:
    """BatchNorm, or an activation with its value as its first input; x * sigmoid(x) too. passes:
    true of operations that may stand between these."""
    if node.op_type != "Mul":
        return node.op_type in ACTIVATIONS
    value, gated = (source(operand, passes) for operand in inputs(node))
    gate = made_by(gated, *GATES)
    if gate is None:
        return False
    return source(first_input(gate), passes) is value


def _is_term(node: ir.Node) -> bool:
    """Return whether this sum is only a term of another one."""
    (value,) = node.outputs
    users = readers(value, lambda user: is_mark(user, "Output"))
    return bool(of_kind(users, *SUMS))


def _terms(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a sum adds up, also by sums that are only terms of it."""
    for value in inputs(node):
        inner = made_by(_unmarked(value), *SUMS)
        if inner is None:
            yield value
        else:
            yield from _terms(inner)


def _branch(value: ir.Value) -> tuple[ir.Value, str]:
    """(what a convolution reads, the module it is). Raises NoMatch unless one gives this value,
    perhaps through BatchNorm."""
    passed = list(takewhile(_ends_branch, before(value)))
    marks = [node for node in passed if is_mark(node, "Output")]
    require(len(marks) > 0)
    conv = needed(made_by(first_input(passed[-1]), "Conv"))
    return _unquantized(first_input(conv)), module_of(marks[-1])


def _ends_branch(node: ir.Node) -> bool:
    """Return whether this may stand behind a convolution: a mark of an output, or BatchNorm."""
    return is_mark(node, "Output") or node.op_type == "BatchNormalization"


def _unquantized(value: ir.Value) -> ir.Value:
    """Return the value before the marks behind it."""
    return source(value, lambda node: node.domain == DOMAIN)


def keeps_values(node: ir.Node) -> bool:
    """Return whether the output holds no other values than the first input."""
    return node.op_type in SAME_VALUES or qdq.takes_nearest(node) or is_mark(node, "Output")


def _unmarked(value: ir.Value) -> ir.Value:
    """Return the value before the `Output` and `Operand` marks behind it."""
    return source(value, lambda node: is_mark(node, "Output", "Operand"))


def _of_weighted(value: ir.Value) -> bool:
    """Return whether an operation with a weight gives this value, perhaps through BatchNorm."""
    norm = made_by(value, "BatchNormalization")
    end = value if norm is None else _unmarked(first_input(norm))
    return made_by(end, *qdq.WEIGHT_INPUT) is not None
