"""Steps through a graph that may lead nowhere: each takes None and gives None there, so that a
chain of them needs no check in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import onnx_ir as ir


def producer(value: ir.Value | None) -> ir.Node | None:
    """The operation that gives this value; None for an input, an initializer and no value."""
    return None if value is None else value.producer()


def made_by(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """The operation that gives this value where it is of one of these kinds, else None."""
    node = producer(value)
    return node if node is not None and node.op_type in kinds else None


def of_kind(nodes: Iterable[ir.Node], *kinds: str) -> list[ir.Node]:
    """The operations of these kinds, in their order. nodes: a graph for its own operations,
    `graph.all_nodes()` for those of the bodies in it as well."""
    return [node for node in nodes if node.op_type in kinds]


def all_outputs(nodes: Iterable[ir.Node]) -> list[ir.Value]:
    """All that these operations give, in their order."""
    return list(chain.from_iterable(node.outputs for node in nodes))


def size_of(value: ir.Value, axis: int) -> int | None:
    """How long the value is along an axis; None where that is not known before it is computed."""
    size = None if value.shape is None else value.shape[axis]
    return size if isinstance(size, int) else None


def given(node: ir.Node | None, index: int | None) -> ir.Value | None:
    """The input at this place; None where it is left out, also at the end of the list, and for no
    place."""
    if node is None or index is None or index >= len(node.inputs):
        return None
    return node.inputs[index]


def value_name(value: ir.Value | None) -> str:
    """The name of a value; "" for one that has none, and for an input that is left out."""
    return "" if value is None else value.name or ""


def name_of(node: ir.Node) -> str:
    """Its name in the file; that of its first output where it has none."""
    names = (node.name, *(output.name for output in node.outputs), node.op_type)
    return next(filter(None, names))


def inputs(node: ir.Node) -> list[ir.Value]:
    """The inputs that are not left out."""
    return [value for value in node.inputs if value is not None]


def only_user(value: ir.Value) -> ir.Node | None:
    """The operation that alone reads the value; None where several do, or none does."""
    users = value.consumers()
    return users[0] if len(users) == 1 else None


def readers(value: ir.Value, passes: Callable[[ir.Node], bool]) -> Iterator[ir.Node]:
    """The operations that read the value, also behind those that `passes` is true of, by their
    first outputs."""
    for user in value.consumers():
        if passes(user):
            yield from readers(user.outputs[0], passes)
        else:
            yield user


def source(value: ir.Value, passes: Callable[[ir.Node], bool]) -> ir.Value:
    """The value in front of all operations that `passes` is true of, by their first inputs."""
    node = value.producer()
    while node is not None and passes(node):
        before = given(node, 0)
        if before is None:
            break
        value, node = before, before.producer()
    return value


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs that an If, Loop or Scan holds."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def is_read(node: ir.Node) -> bool:
    """Whether an operation reads anything that this one gives, or the graph gives it on."""
    return any(value.uses() or value.is_graph_output() for value in node.outputs)


def first_input(node: ir.Node) -> ir.Value:
    """The first input of an operation that cannot be without one."""
    value = node.inputs[0]
    assert value is not None
    return value


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph, or the body, that the node stands in. Not for nodes that were removed."""
    assert node.graph is not None
    return node.graph


def insert_behind(value: ir.Value, nodes: Sequence[ir.Node]) -> None:
    """Put nodes behind the operation that gives the value. Not for inputs of a graph."""
    node = value.producer()
    assert node is not None
    graph_of(node).insert_after(node, nodes)
