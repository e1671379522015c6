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
from sensitivity.onnx_graph.uses import MOVERS, Path

PAIR = {"QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True)
class Together:
    """kind: why. units: names of operations, or of the graph's outputs; two or more."""

    kind: Literal["fan-out", "concat", "residual"]
    units: tuple[str, ...]


def belonging(graph: ir.Graph, paths: Sequence[Path]) -> tuple[Together, ...]:
    """What belongs together, in the graph's order. paths: all of this graph, `uses.paths`."""
    readers = [(path.root, path.unit) for path in paths if not qdq.rooted_at_constant(path.root)]
    meetings = met(graph, readers, lambda node: node.op_type in PAIR | MOVERS or keeps_values(node))
    found = [Together(one.kind, one.quantizers) for one in meetings]
    units = {path.user: path.unit for path in paths if path.user is not None}
    return (*found, *_residuals(graph, units))


def _residuals(graph: ir.Graph, units: Mapping[ir.Node, str]) -> Iterator[Together]:
    for node in graph:
        values = [
            value
            for value in node.inputs
            if value is not None and not qdq.rooted_at_constant(value)
        ]
        if node.op_type == "Add" and node in units and len(values) == 2:
            givers = [giver for value in values if (giver := _weighted(value)) is not None]
            members = dict.fromkeys(
                [*(units[giver] for giver in givers if giver in units), units[node]]
            )
            if len(members) > 1:
                yield Together("residual", tuple(members))


def _weighted(value: ir.Value) -> ir.Node | None:
    """The weighted operation that gives this value, through pairs and activations; None where
    another one does."""
    node = _behind(value)
    while node is not None and _is_activation(node):
        node = _behind(node.inputs[0])
    return node if node is not None and qdq.weight(node) is not None else None


def _behind(value: ir.Value | None) -> ir.Node | None:
    """The operation that gives this value, behind pairs and movers."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in PAIR | MOVERS:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node


def _is_activation(node: ir.Node) -> bool:
    """BatchNorm, or an activation with its value as its first input; x * sigmoid(x) too."""
    if node.op_type != "Mul":
        return node.op_type in ACTIVATIONS
    gate = _behind(node.inputs[1])
    return (
        gate is not None
        and gate.op_type in {"Sigmoid", "HardSigmoid"}
        and _behind(gate.inputs[0]) is _behind(node.inputs[0])
    )
