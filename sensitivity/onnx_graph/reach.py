"""Finds the parts of a graph that reach its outputs, and the parts that are quantized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import filterfalse

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.lift_dequantize import moved_places
from sensitivity.onnx_graph.uses import Path, uses
from sensitivity.onnx_graph.walk import bodies, inputs, name_of, of_kind, producers, reached
from sensitivity.records import names_of


def quantized_nodes(model: ir.Model) -> Iterator[tuple[str, ir.Node]]:
    """Yield every Q and DQ of the main graph, its subgraphs and the model-local functions, with its
    name.

    Those at integer inputs and outputs of the main graph are left out: they are the form in which
    the file takes and gives its values (`rounded_outputs`).
    """
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        for node in filterfalse(_is_port, of_kind(graph.all_nodes(), *qdq.PAIR)):
            yield name_of(node), node


def rounded_outputs(model: ir.Model) -> Iterator[tuple[str, ir.Node]]:
    """Yield every Q whose integers are an output of the main graph and reach no DQ, with its
    name."""
    for node in filter(_is_port, of_kind(model.graph.all_nodes(), "QuantizeLinear")):
        yield name_of(node), node


def _is_port(node: ir.Node) -> bool:
    """Return whether a DQ reads an integer input of the model, or a Q gives an integer output of
    it, perhaps through moves."""
    if node.op_type == "DequantizeLinear":
        return _comes_from_input(node.inputs[0])
    return _goes_to_output(node.outputs[0])


def _comes_from_input(value: ir.Value | None) -> bool:
    """Return whether the integers are an input of the graph, or come only from inputs through
    operations that move values."""
    if value is None:
        return False
    node = value.producer()
    if node is None:
        return value.is_graph_input() and not value.is_initializer()
    moved = [node.inputs[place] for place in moved_places(node)]
    return bool(moved) and all(map(_comes_from_input, moved))


def _goes_to_output(value: ir.Value) -> bool:
    """Return whether the integers reach only outputs, through operations that move values."""
    readers = value.consumers()
    if not readers:
        return value.is_graph_output()
    return all(map(_moves_to_output, readers))


def _moves_to_output(node: ir.Node) -> bool:
    """Return whether the operation only moves integers and all its outputs reach only outputs of
    the graph."""
    return bool(moved_places(node)) and all(map(_goes_to_output, node.outputs))


def reaching_outputs(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes of the main graph whose values reach an output. A node with subgraphs reads
    all that their nodes read."""
    return set(reached(producers(graph.outputs), _givers))


def nearest_outputs(graph: ir.Graph, paths: Sequence[Path]) -> tuple[tuple[str, ...], ...]:
    """Return, for each output of the graph, the names of the uses that it depends on, nearest
    operations first.

    Uses in subgraphs of If, Loop and Scan are left out.
    """
    main = [path for path in paths if path.graph is graph]
    names = []
    for index, output in enumerate(graph.outputs):
        names.append(_uses_by_distance(main, index, output))
    return tuple(names)


def _uses_by_distance(paths: Sequence[Path], index: int, output: ir.Value) -> tuple[str, ...]:
    """Return the names of the uses that one output depends on, nearest first.

    index: index of the output.
    """
    away = reached(producers([output]), _givers)
    # The pairs of the output itself are the nearest of all.
    own, before = [], []
    for path in paths:
        if path.user in away:
            before.append(path)
        elif path.user is None and path.index == index:
            own.append(path)
    before.sort(key=lambda path: away[path.operation])
    return tuple(names_of(uses([*own, *before])))


def _givers(node: ir.Node) -> list[ir.Node]:
    """Return the nodes whose outputs this node reads, also inside its subgraphs."""
    return producers(values_read(node))


def values_read(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the values that a node reads, also inside its subgraphs."""
    yield from inputs(node)
    for graph in bodies(node):
        yield from _read_inside(graph)


def _read_inside(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.outputs
    for node in graph:
        yield from values_read(node)
