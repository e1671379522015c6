"""Nodes that carry names of the user's model through an export, and the metadata that they leave.

The nodes have the domain `sensitivity`. `Quantizer(x, name)` marks the place of a quantizer,
`Output(x, module, call)` follows a layer, and `Operand(x, module, sum)`, on request, stands before
the second operand of a sum. Each of them returns x. They do not appear in exported files:
`passes.insert_qdq` and `passes.take_marks` remove them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeGuard

import onnx_ir as ir

from sensitivity.onnx_graph.walk import first_input, graph_of, is_kind, producer

DOMAIN = "sensitivity"
PRE_SCALE = "pre_quant_scale"
"""Ending of the name of a pre-quantization scale in a traced graph."""

OUTPUTS = "outputs of modules"
"""Key of a value's metadata that holds its `ModuleOutput`s."""


@dataclass(frozen=True)
class ModuleOutput:
    """The output of `module` in its call number `call` (from 0).

    then: the BatchNorm that was folded into the module, and whose output the value is now; None if
        there is none.
    """

    module: str
    call: int
    then: str | None = None


@dataclass(frozen=True)
class SumOperand:
    """An operand of a sum in the code of `module` ("" is the whole model).

    sum: number of the sum among that module's own sums of two tensors, from 0 in each call.
    index: 0 or 1.
    """

    module: str
    sum: int
    index: int


def module_outputs(value: ir.Value) -> tuple[ModuleOutput, ...]:
    """Return the modules that gave this value, in the order of computation: a convolution, then the
    BatchNorm folded into it."""
    outputs: tuple[ModuleOutput, ...] = value.meta.get(OUTPUTS, ())
    return outputs


def add_module_outputs(value: ir.Value, outputs: tuple[ModuleOutput, ...]) -> None:
    """Append modules to those that gave this value, in the order of computation."""
    value.meta[OUTPUTS] = (*module_outputs(value), *outputs)


def is_mark(node: ir.Node | None, *kinds: str) -> TypeGuard[ir.Node]:
    """Return whether the node is one of our marks.

    kinds: some of "Quantizer", "Output" and "Operand".
    """
    return is_kind(node, *kinds) and node.domain == DOMAIN


def marks_in(graph: ir.Graph, *kinds: str) -> list[ir.Node]:
    """Return the marks of these kinds, in the graph's order."""
    return [node for node in graph if is_mark(node, *kinds)]


def mark_before(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """Return the mark of one of these kinds that gives the value; None if there is none."""
    node = producer(value)
    if not is_mark(node, *kinds):
        return None
    return node


def module_of(mark: ir.Node) -> str:
    """Return the module of an `Output` or an `Operand`."""
    return mark.attributes.get_string("module")


def quantizer_of(mark: ir.Node) -> str:
    """Return the name of the quantizer of a `Quantizer`."""
    return mark.attributes.get_string("name")


def remove(node: ir.Node) -> None:
    """Remove a node that changes nothing; readers of its output then read its input."""
    source, output = first_input(node), node.outputs[0]
    is_inner = source.producer() is not None and not source.is_graph_output()
    if is_inner and output.is_graph_output():
        # A graph output keeps the name that the user knows.
        source.name, output.name = output.name, f"{output.name}_marked"
    if source.type is None or source.shape is None:
        source.type, source.shape = output.type, output.shape
    output.replace_all_uses_with(source, replace_graph_outputs=True)
    graph_of(node).remove(node, safe=True)


def all_marks(nodes: Iterable[ir.Node], kind: str) -> list[ir.Node]:
    """Return the marks of this kind among these nodes."""
    return [node for node in nodes if is_mark(node, kind)]
