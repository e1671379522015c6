"""Which operations of a Q/DQ file belong together: units that a compiler wants in one precision.

x -> Q -> DQ -> Conv and Sigmoid    readers of one tensor: quantizing for one alone saves nothing
a, b -> Q -> DQ -> Concat -> Conv   a Concat, with what reads its inputs or its output
Conv -> Q -> DQ -> Add              a residual Add, with the weighted operations before it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.groups import ACTIVATIONS, keeps_values, met
from sensitivity.onnx_graph.uses import MOVERS, Path, uses
from sensitivity.onnx_graph.walk import source


@dataclass(frozen=True)
class Together:
    """kind: why. units: names of operations, or of the graph's outputs; two or more."""

    kind: Literal["fan-out", "concat", "residual"]
    units: tuple[str, ...]


def belonging(graph: ir.Graph, paths: Sequence[Path]) -> tuple[Together, ...]:
    """What belongs together, in the graph's order. paths: all of this graph, `uses.paths`."""
    readers = [(path.root, path.unit) for path in paths if not qdq.rooted_at_constant(path.root)]
    found = [
        Together(meeting.kind, meeting.quantizers) for meeting in met(graph, readers, _keeps_values)
    ]
    units = {path.user: path.unit for path in paths if path.user is not None}
    return (*found, *_residuals(graph, units))


def meeting_uses(graph: ir.Graph, paths: Sequence[Path]) -> tuple[tuple[str, ...], ...]:
    """Uses of pairs that read the same values, or parts of what one Concat joins; two or more
    each. paths: as for `belonging`."""
    computed = [path for path in paths if not qdq.rooted_at_constant(path.root)]
    readers = [(path.root, use.name) for path in computed for use in uses([path])]
    return tuple(meeting.quantizers for meeting in met(graph, readers, _keeps_values))


def _keeps_values(node: ir.Node) -> bool:
    return _is_passed(node) or keeps_values(node)


def _is_passed(node: ir.Node) -> bool:
    return node.op_type in qdq.PAIR | MOVERS


def _residuals(graph: ir.Graph, units: Mapping[ir.Node, str]) -> Iterator[Together]:
    for node in graph:
        if node.op_type != "Add" or node not in units:
            continue
        values = qdq.computed_inputs(node)
        if len(values) != 2:
            continue
        givers = filter(None, map(_weighted, values))
        before = [units[giver] for giver in givers if giver in units]
        members = tuple(dict.fromkeys([*before, units[node]]))
        if len(members) > 1:
            yield Together("residual", members)


def _weighted(value: ir.Value) -> ir.Node | None:
    """The weighted operation that gives this value, through pairs and activations; None where
    another one does."""
    node = _behind(value)
    while node is not None and _is_activation(node):
        node = _behind(node.inputs[0])
    return node if node is not None and qdq.weight(node) is not None else None


def _behind(value: ir.Value | None) -> ir.Node | None:
    """The operation that gives this value, behind pairs and movers."""
    return None if value is None else source(value, _is_passed).producer()


def _is_activation(node: ir.Node) -> bool:
    """BatchNorm, or an activation with its value as its first input; x * sigmoid(x) too."""
    if node.op_type != "Mul":
        return node.op_type in ACTIVATIONS
    gate = _behind(node.inputs[1])
    if gate is None or gate.op_type not in {"Sigmoid", "HardSigmoid"}:
        return False
    return _behind(gate.inputs[0]) is _behind(node.inputs[0])
