"""Which layers of a graph hand each other tensors, as a reader wants to see it: layers, and the
places where values of several of them meet."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx_ir as ir

from sensitivity.onnx_graph.marks import is_mark
from sensitivity.onnx_graph.qdq import WEIGHT_INPUT
from sensitivity.onnx_graph.reach import values_read
from sensitivity.onnx_graph.uses import MOVERS, Path
from sensitivity.onnx_graph.walk import readers, value_name
from sensitivity.records import GraphNode, ModelGraph, NodeKind, Quantizer

NO_VALUES = {"Shape", "Size"}
"""Operations whose outputs hold none of the values that they read."""

MEETING = {"Concat", "Add", "Sum"}
"""Operations two of which in a row are one place where values meet."""

Edge = tuple[int, int]


def connections(
    graph: ir.Graph,
    owners: Mapping[ir.Node, str],
    meetings: Collection[tuple[str, ...]] = (),
) -> ModelGraph:
    """The layers of the main graph in its order, and between them only what joins values of
    several.

    owners: operation -> the layer that it is of, or belongs to. meetings: as in `ModelGraph`. An
    operation of no layer that reads values of one place is left out.
    """
    found = _Found()
    for value in graph.inputs:
        if not value.is_initializer():
            found.sources[value] = (found.place("input", value_name(value), ""),)
    for node in graph:
        found.add(node, owners.get(node))
    for value in graph.outputs:
        found.lead(found.sources.get(value, ()), found.place("output", value_name(value), ""))
    return _in_few_joins(found.nodes, list(found.edges), tuple(meetings))


class _Found:
    """What is known so far. sources: value -> positions of the nodes that it comes from."""

    def __init__(self) -> None:
        self.nodes: list[GraphNode] = []
        self.edges: dict[Edge, None] = {}
        self.sources: dict[ir.Value, tuple[int, ...]] = {}
        self._at: dict[tuple[NodeKind, str], int] = {}

    def add(self, node: ir.Node, owner: str | None) -> None:
        """Take an operation into account, of which all inputs are known. owner: its layer."""
        read = () if node.op_type in NO_VALUES else self._read_by(node)
        if owner is not None:
            operation = "" if is_mark(node, "Quantizer") else node.op_type
            read = self.lead(read, self.place("layer", owner, operation))
        elif len(read) > 1:
            read = self.lead(read, self.place("join", value_name(node.outputs[0]), node.op_type))
        for value in node.outputs:
            self.sources[value] = read

    def place(self, kind: NodeKind, name: str, operation: str) -> int:
        """The position of a node, which is a new one the first time that it is asked for."""
        at = self._at.setdefault((kind, name), len(self.nodes))
        if at == len(self.nodes):
            self.nodes.append(GraphNode(kind, name, operation))
        is_better = operation in WEIGHT_INPUT or not self.nodes[at].operation
        if operation and is_better:
            self.nodes[at] = GraphNode(kind, name, operation)
        return at

    def lead(self, sources: tuple[int, ...], to: int) -> tuple[int, ...]:
        """Draw edges from these nodes to another, and return where its values come from: itself."""
        self.edges.update(((source, to), None) for source in sources if source != to)
        return (to,)

    def _read_by(self, node: ir.Node) -> tuple[int, ...]:
        read = [at for value in values_read(node) for at in self.sources.get(value, ())]
        return tuple(dict.fromkeys(read))


def _in_few_joins(
    nodes: Sequence[GraphNode], edges: list[Edge], meetings: tuple[tuple[str, ...], ...]
) -> ModelGraph:
    """The graph in which what a join gives to nothing but another of its kind goes there itself."""
    for at, node in enumerate(nodes):
        readers = [after for before, after in edges if before == at]
        if node.operation in MEETING and len(readers) == 1:
            edges = _joined(nodes, edges, at, readers[0])
    unused = set(range(len(nodes))).difference(*edges)
    return ModelGraph(tuple(nodes), tuple(sorted(edges)), meetings).without(unused)


def _joined(nodes: Sequence[GraphNode], edges: list[Edge], join: int, reader: int) -> list[Edge]:
    """The edges without a join whose only reader is another of its kind; as they are where it is
    not."""
    kinds = {(nodes[at].kind, nodes[at].operation) for at in (join, reader)}
    if nodes[join].kind != "join" or len(kinds) > 1:
        return edges
    others = [edge for edge in edges if join not in edge]
    return others + [(before, reader) for before, after in edges if after == join]


def marked_owners(model: ir.Model, quantizers: Iterable[Quantizer]) -> dict[ir.Node, str]:
    """Operation -> its layer, in a traced graph whose quantizers are still marked.

    That of a layer with a weight reads the marked weight: its input may be marked for a sum too,
    which is no part of it. That of any other layer reads a marked input, or stands in front of a
    marked output.
    """
    known = {quantizer.name: quantizer for quantizer in quantizers}
    marks = [
        (node, known[node.attributes.get_string("name")])
        for node in model.graph
        if is_mark(node, "Quantizer") and node.attributes.get_string("name") in known
    ]
    with_weight = {quantizer.layer for _, quantizer in marks if quantizer.role == "weight"}
    owners: dict[ir.Node, str] = {}
    for node, quantizer in marks:
        if quantizer.role != "weight" and quantizer.layer in with_weight:
            continue
        own = [node] if quantizer.role == "output" else readers(node.outputs[0], _moves)
        owners |= dict.fromkeys(own, quantizer.layer)
    return owners


def _moves(node: ir.Node) -> bool:
    return node.op_type in MOVERS


def path_owners(paths: Iterable[Path]) -> dict[ir.Node, str]:
    """Operation -> its unit, in a Q/DQ file. paths: of the file, see `uses.paths`."""
    return {path.user: path.unit for path in paths if path.user is not None}
