"""Finds operations of a Q/DQ file that belong together: units that a compiler wants in one
precision.

x -> Q -> DQ -> Conv and Sigmoid    readers of one tensor: quantizing for one alone saves nothing
a, b -> Q -> DQ -> Concat -> Conv   a Concat, with what reads its inputs or its output
Conv -> Q -> DQ -> Add              a residual Add, with the weighted operations before it
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from typing import Literal

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.groups import is_activation, keeps_values, met
from sensitivity.onnx_graph.matching import matches, require
from sensitivity.onnx_graph.uses import MOVERS, Path, path_owners
from sensitivity.onnx_graph.walk import of_kind, upstream

PASSED = qdq.PAIR | MOVERS
"""Operations that may stand between two others without computing anything."""


@dataclass(frozen=True)
class Together:
    """Two or more units that belong together.

    kind: the reason.
    units: names of operations or of the graph's outputs.
    """

    kind: Literal["fan-out", "concat", "residual"]
    units: tuple[str, ...]


def belonging(graph: ir.Graph, paths: Sequence[Path]) -> tuple[Together, ...]:
    """Return the groups of units that belong together, in the graph's order.

    paths: all paths of this graph, as from `uses.paths`.
    """
    readers = [(path.root, path.unit) for path in _computed(paths)]
    groups = [
        Together(meeting.kind, meeting.quantizers) for meeting in met(graph, readers, _keeps_values)
    ]
    return (*groups, *_residuals(graph, path_owners(paths)))


def meeting_uses(graph: ir.Graph, paths: Sequence[Path]) -> tuple[tuple[str, ...], ...]:
    """Return groups of two or more uses of pairs that read the same values, or parts of what one
    Concat joins.

    paths: as for `belonging`.
    """
    readers: list[tuple[ir.Value, str]] = []
    for path in _computed(paths):
        readers += [(path.root, use.name) for use in path.uses]
    return tuple(meeting.quantizers for meeting in met(graph, readers, _keeps_values))


def _computed(paths: Iterable[Path]) -> Iterator[Path]:
    """Return the paths that start at a computed value, not at a constant."""
    return (path for path in paths if not qdq.rooted_at_constant(path.root))


def _keeps_values(node: ir.Node) -> bool:
    return _is_passed(node) or keeps_values(node)


def _is_passed(node: ir.Node) -> bool:
    return node.op_type in PASSED


def _residuals(graph: ir.Graph, units: Mapping[ir.Node, str]) -> Iterator[Together]:
    """Return each Add of two computed values together with the weighted operations that give
    them."""
    return matches(lambda add: _residual(add, units), of_kind(graph, "Add"))


def _residual(add: ir.Node, units: Mapping[ir.Node, str]) -> Together:
    """Return an Add with the weighted operations before it. Raises NoMatch if there is none."""
    require(add in units)
    values = qdq.computed_inputs(add)
    require(len(values) == 2)
    members = [*filter(None, map(_weighted, values)), add]
    names = dict.fromkeys(units[member] for member in members if member in units)
    require(len(names) > 1)
    return Together("residual", tuple(names))


def _weighted(value: ir.Value) -> ir.Node | None:
    """Return the weighted operation that gives this value, through pairs and activations; None if
    another operation does."""
    node = next(filterfalse(_is_between, upstream(value)), None)
    if node is None or qdq.weight(node) is None:
        return None
    return node


def _is_between(node: ir.Node) -> bool:
    """Return whether this node belongs to a pair, is a mover, or is an activation."""
    return _is_passed(node) or is_activation(node, _is_passed)
