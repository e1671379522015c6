"""What of a graph reaches its outputs, and what of it is quantized."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from sensitivity.onnx_graph.passes.lift_dequantize import moved_places
from sensitivity.onnx_graph.uses import Path

QUANTIZED = {"QuantizeLinear", "DequantizeLinear"}


def quantized_nodes(model: ir.Model) -> Iterator[tuple[str, ir.Node]]:
    """Every Q and DQ of the main graph, its bodies and the model-local functions, with a name to
    find it by.

    Those at integer inputs and outputs of the main graph are not among them: they are the form in
    which the file takes and gives its values (`rounded_outputs`).
    """
    nodes = [
        *model.graph.all_nodes(),
        *(node for body in model.functions.values() for node in body.all_nodes()),
    ]
    for node in nodes:
        if node.op_type in QUANTIZED and not _is_port(node):
            yield name_of(node), node


def rounded_outputs(model: ir.Model) -> Iterator[tuple[str, ir.Node]]:
    """Every Q whose integers are an output of the main graph and reach no DQ, with a name to find
    it by."""
    for node in model.graph.all_nodes():
        if node.op_type == "QuantizeLinear" and _is_port(node):
            yield name_of(node), node


def name_of(node: ir.Node) -> str:
    """Its name in the file; that of its first output where it has none."""
    return node.name or (node.outputs[0].name if node.outputs else None) or node.op_type


def _is_port(node: ir.Node) -> bool:
    """Whether a DQ reads an integer input of the model, or a Q gives an integer output of it,
    perhaps moved."""
    if node.op_type == "DequantizeLinear":
        return node.inputs[0] is not None and _comes_from_input(node.inputs[0])
    return _goes_to_output(node.outputs[0])


def _comes_from_input(value: ir.Value) -> bool:
    node = value.producer()
    if node is None:
        return value.is_graph_input() and not value.is_initializer()
    places = moved_places(node)
    return bool(places) and all(
        source is not None and _comes_from_input(source)
        for source in (node.inputs[place] for place in places)
    )


def _goes_to_output(value: ir.Value) -> bool:
    """Whether the integers only reach outputs, through nothing but operations that move them."""
    readers = value.consumers()
    if not readers:
        return value.is_graph_output()
    return all(moved_places(node) and all(map(_goes_to_output, node.outputs)) for node in readers)


def reaching_outputs(graph: ir.Graph) -> set[ir.Node]:
    """The nodes of the main graph whose values reach an output; a sub-graph reads the values that
    its nodes read."""
    found: set[ir.Node] = set()
    waiting = [value.producer() for value in graph.outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        found.add(node)
        waiting += [value.producer() for value in values_read(node)]
    return found


def nearest_outputs(graph: ir.Graph, paths: Sequence[Path]) -> tuple[tuple[str, ...], ...]:
    """For each output of the graph the names of the uses that it depends on, those of the nearest
    operations first.

    Those in bodies of If, Loop and Scan are left out.
    """
    main = [path for path in paths if path.graph is graph]
    found = []
    for index, value in enumerate(graph.outputs):
        away: dict[ir.Node | None, int] = _nodes_away(value.producer())
        own = [
            path
            for path in main
            if (path.index == index if path.user is None else path.user in away)
        ]
        # the output's own pairs are the nearest of all
        own.sort(key=lambda path: away.get(path.user, -1))
        found.append(tuple(use.name for path in own for _, use in path.links if use is not None))
    return tuple(found)


def _nodes_away(last: ir.Node | None) -> dict[ir.Node | None, int]:
    """How many nodes each node that reaches `last` is away from it, by the shortest way."""
    away: dict[ir.Node | None, int] = {}
    waiting = deque([(last, 0)])
    while waiting:
        node, distance = waiting.popleft()
        if node is None or node in away:
            continue
        away[node] = distance
        waiting.extend((value.producer(), distance + 1) for value in values_read(node))
    return away


def values_read(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, also inside its sub-graphs."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from _read_inside(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                yield from _read_inside(graph)


def _read_inside(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.outputs
    for node in graph:
        yield from values_read(node)
