"""Nodes that carry names of the user's model through an export, and what is kept of them
afterwards.

Domain `sensitivity`: `Quantizer(x, name)` where a quantizer stood, `Output(x, module, call)` behind
a layer, and, where asked for, `Operand(x, module, sum)` in front of the second operand of a sum.
All give x. They never leave the export: `passes.insert_qdq` and `passes.take_marks` remove those
that a file is made from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeGuard

import onnx_ir as ir

from sensitivity.onnx_graph.walk import first_input, graph_of, is_kind, producer

DOMAIN = "sensitivity"
PRE_SCALE = "pre_quant_scale"
"""How the name of a pre-quantization scale ends in a traced graph."""

OUTPUTS = "outputs of modules"


@dataclass(frozen=True)
class ModuleOutput:
    """A value that is what `module` gave at its call number `call` (from 0).

    then: the BatchNorm that was folded into it, and whose output the value is now; None where there
    is none.
    """

    module: str
    call: int
    then: str | None = None


@dataclass(frozen=True)
class SumOperand:
    """An operand of a sum that the code of `module` takes ("" is the whole model).

    sum: which of that module's own sums of two tensors, from 0 in each of its calls. index: 0 or 1.
    """

    module: str
    sum: int
    index: int


def module_outputs(value: ir.Value) -> tuple[ModuleOutput, ...]:
    """Return which modules gave this value, in the order that they did: a convolution, then the
    BatchNorm folded into it."""
    found: tuple[ModuleOutput, ...] = value.meta.get(OUTPUTS, ())
    return found


def add_module_outputs(value: ir.Value, outputs: tuple[ModuleOutput, ...]) -> None:
    """Add the modules, in the order that they gave this value, behind those it has."""
    value.meta[OUTPUTS] = (*module_outputs(value), *outputs)


def is_mark(node: ir.Node | None, *kinds: str) -> TypeGuard[ir.Node]:
    """Return whether the node is one of ours. kinds: some of "Quantizer", "Output" and
    "Operand"."""
    return is_kind(node, *kinds) and node.domain == DOMAIN


def marks_in(graph: ir.Graph, *kinds: str) -> list[ir.Node]:
    """Return the marks of these kinds, in the graph's order."""
    return [node for node in graph if is_mark(node, *kinds)]


def mark_behind(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """Return the mark of one of these kinds that gives the value; None where there is none."""
    node = producer(value)
    if not is_mark(node, *kinds):
        return None
    return node


def module_of(mark: ir.Node) -> str:
    """Return the module that an `Output` or an `Operand` is of."""
    return mark.attributes.get_string("module")


def quantizer_of(mark: ir.Node) -> str:
    """Return the name of the quantizer that stood where a `Quantizer` is."""
    return mark.attributes.get_string("name")


def remove(node: ir.Node) -> None:
    """Take a node that changes nothing out of its graph; its output's users get its input."""
    source, output = first_input(node), node.outputs[0]
    is_inner = source.producer() is not None and not source.is_graph_output()
    if is_inner and output.is_graph_output():
        # outputs keep the name users know
        source.name, output.name = output.name, f"{output.name}_marked"
    if source.type is None or source.shape is None:
        source.type, source.shape = output.type, output.shape
    output.replace_all_uses_with(source, replace_graph_outputs=True)
    graph_of(node).remove(node, safe=True)


def all_marks(nodes: Iterable[ir.Node], kind: str) -> list[ir.Node]:
    """Return the marks of this kind among these nodes."""
    return [node for node in nodes if is_mark(node, kind)]
