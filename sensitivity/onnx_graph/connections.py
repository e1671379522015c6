"""Finds which layers of a graph pass tensors to each other, for drawing: layers, and the places
where values of several layers meet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, filterfalse

import onnx_ir as ir

from sensitivity.onnx_graph.marks import is_mark, marks_in, quantizer_of
from sensitivity.onnx_graph.qdq import WEIGHT_INPUT
from sensitivity.onnx_graph.reach import values_read
from sensitivity.onnx_graph.uses import MOVERS
from sensitivity.onnx_graph.walk import only, readers, value_name
from sensitivity.records import GraphNode, ModelGraph, NodeKind, Quantizer

NO_VALUES = {"Shape", "Size"}
"""Operations whose outputs hold none of the values that they read."""

MEETING = {"Concat", "Add", "Sum"}
"""Operations of which two in a row are drawn as one place where values meet."""

Edge = tuple[int, int]
"""Positions of two nodes, from the first to the second."""


def connections(
    graph: ir.Graph,
    owners: Mapping[ir.Node, str],
    meetings: Collection[tuple[str, ...]] = (),
) -> ModelGraph:
    """Return the layers of the main graph, in its order, and the places where values of several
    layers meet.

    An operation without a layer that reads values from only one place is left out.

    owners: operation -> the layer that it belongs to.
    meetings: as in `ModelGraph`.
    """
    found = _Found()
    for value in filterfalse(ir.Value.is_initializer, graph.inputs):
        found.sources[value] = (found.place("input", value_name(value), ""),)
    for node in graph:
        found.add(node, owners.get(node))
    for value in graph.outputs:
        found.lead(found.sources.get(value, ()), found.place("output", value_name(value), ""))
    edges = _in_few_joins(found.nodes, list(found.edges))
    unused = set(range(len(found.nodes))).difference(*edges)
    whole = ModelGraph(tuple(found.nodes), tuple(sorted(edges)), tuple(meetings))
    return whole.without(unused)


class _Found:
    """Nodes and edges found so far.

    sources: value -> positions of the nodes that it comes from.
    """

    def __init__(self) -> None:
        self.nodes: list[GraphNode] = []
        self.edges: dict[Edge, None] = {}
        self.sources: dict[ir.Value, tuple[int, ...]] = {}
        self._at: dict[tuple[NodeKind, str], int] = {}

    def add(self, node: ir.Node, owner: str | None) -> None:
        """Add an operation whose inputs are all known.

        owner: its layer; None if it has none.
        """
        read = self._read_by(node)
        operation = "" if is_mark(node, "Quantizer") else node.op_type
        if owner is not None:
            read = self.lead(read, self.place("layer", owner, operation))
        elif len(read) > 1:
            read = self.lead(read, self.place("join", value_name(node.outputs[0]), node.op_type))
        self.sources |= dict.fromkeys(node.outputs, read)

    def place(self, kind: NodeKind, name: str, operation: str) -> int:
        """Return the position of a node, which is added if it is new.

        Its operation is the last one with a weight, or else the first one that is named.
        """
        position = self._at.setdefault((kind, name), len(self.nodes))
        if position == len(self.nodes):
            self.nodes.append(GraphNode(kind, name, operation))
        if operation in WEIGHT_INPUT or not self.nodes[position].operation:
            self.nodes[position] = GraphNode(kind, name, operation)
        return position

    def lead(self, sources: tuple[int, ...], to: int) -> tuple[int, ...]:
        """Add edges from these nodes to another one, and return the other one as the new source."""
        self.edges.update(((source, to), None) for source in sources if source != to)
        return (to,)

    def _read_by(self, node: ir.Node) -> tuple[int, ...]:
        """Return the positions of the nodes whose values an operation reads and passes on."""
        if node.op_type in NO_VALUES:
            return ()
        places = (self.sources.get(value, ()) for value in values_read(node))
        return tuple(dict.fromkeys(chain.from_iterable(places)))


def _in_few_joins(nodes: Sequence[GraphNode], edges: list[Edge]) -> list[Edge]:
    """Return the edges with each chain of joins of one kind made into its last one.

    A join is merged if only another one of its kind reads it.
    """
    for position, node in enumerate(nodes):
        readers = [after for before, after in edges if before == position]
        reader = only(readers)
        if reader is not None and _are_one_join(node, nodes[reader]):
            edges = _led_on(edges, position, reader)
    return edges


def _led_on(edges: Sequence[Edge], join: int, reader: int) -> list[Edge]:
    """Return the edges without a join, whose incoming edges go to its only reader."""
    others, leading = [], []
    for before, after in edges:
        if after == join:
            leading.append((before, reader))
        elif before != join:
            others.append((before, after))
    return others + leading


def _are_one_join(node: GraphNode, reader: GraphNode) -> bool:
    """Return whether two nodes in a row are one place where values meet."""
    are_alike = (node.kind, node.operation) == (reader.kind, reader.operation)
    return are_alike and node.kind == "join" and node.operation in MEETING


def marked_owners(model: ir.Model, quantizers: Iterable[Quantizer]) -> dict[ir.Node, str]:
    """Return operation -> its layer, in a traced graph whose quantizers are still marked.

    The operation of a layer with a weight is the one that reads the marked weight. Its marked input
    may also be read by a sum, which does not belong to the layer. The operation of any other layer
    reads a marked input, or is followed by the mark of its output.
    """
    marks = _marks(model.graph, quantizers)
    roles: defaultdict[str, set[str]] = defaultdict(set)
    for quantizer in marks.values():
        roles[quantizer.layer].add(quantizer.role)
    owners: dict[ir.Node, str] = {}
    for mark, quantizer in marks.items():
        is_beside_weight = quantizer.role != "weight" and "weight" in roles[quantizer.layer]
        if not is_beside_weight:
            owners |= dict.fromkeys(_operations_of(mark, quantizer), quantizer.layer)
    return owners


def _marks(graph: ir.Graph, quantizers: Iterable[Quantizer]) -> dict[ir.Node, Quantizer]:
    """Return mark -> its quantizer, for these quantizers, in the graph's order."""
    known = {quantizer.name: quantizer for quantizer in quantizers}
    marks = {}
    for mark in marks_in(graph, "Quantizer"):
        name = quantizer_of(mark)
        if name in known:
            marks[mark] = known[name]
    return marks


def _operations_of(mark: ir.Node, quantizer: Quantizer) -> Iterable[ir.Node]:
    """Return the operations that read the marked value; for the mark of an output, the mark
    itself."""
    if quantizer.role == "output":
        return [mark]
    return readers(mark.outputs[0], lambda node: node.op_type in MOVERS)
