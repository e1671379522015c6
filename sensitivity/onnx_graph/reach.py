"""What of a graph reaches its outputs, and what of it is quantized."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

QUANTIZED = {"QuantizeLinear", "DequantizeLinear"}


def quantized_nodes(model: ir.Model) -> Iterator[tuple[str, ir.Node]]:
    """Every Q and DQ of the main graph, its sub-graphs and the model-local functions, with a name to find it by."""
    nodes = [*model.graph.all_nodes(), *(node for body in model.functions.values() for node in body.all_nodes())]
    for node in nodes:
        if node.op_type in QUANTIZED:
            yield node.name or node.outputs[0].name or node.op_type, node


def reaching_outputs(graph: ir.Graph) -> set[ir.Node]:
    """The nodes of the main graph whose values reach an output; a sub-graph reads the values that its nodes read."""
    found: set[ir.Node] = set()
    waiting = [value.producer() for value in graph.outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        found.add(node)
        waiting += [value.producer() for value in _read(node)]
    return found


def _read(node: ir.Node) -> Iterator[ir.Value]:
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
        yield from _read(node)
