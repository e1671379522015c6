"""Steps through a graph.

Most steps take None and return None for it, so that they can be chained without a check after each
one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from itertools import chain, takewhile
from typing import TypeGuard, TypeVar

import onnx_ir as ir

Item = TypeVar("Item", bound=Hashable)
Thing = TypeVar("Thing")


def producer(value: ir.Value | None) -> ir.Node | None:
    """Return the node that gives this value; None for a graph input, an initializer or None."""
    if value is None:
        return None
    return value.producer()


def producers(values: Iterable[ir.Value | None]) -> list[ir.Node]:
    """Return the nodes that give these values, each once, in the order of the values."""
    return list(dict.fromkeys(filter(None, map(producer, values))))


def is_kind(node: ir.Node | None, *kinds: str) -> TypeGuard[ir.Node]:
    """Return whether there is a node and its operation is one of these kinds."""
    return node is not None and node.op_type in kinds


def made_by(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """Return the node that gives this value if its operation is one of these kinds, else None."""
    node = producer(value)
    if node is None or node.op_type not in kinds:
        return None
    return node


def of_kind(nodes: Iterable[ir.Node], *kinds: str) -> list[ir.Node]:
    """Return the nodes whose operation is one of these kinds, in their order.

    nodes: a graph for its own nodes, `graph.all_nodes()` to include those of subgraphs.
    """
    return [node for node in nodes if node.op_type in kinds]


def all_outputs(nodes: Iterable[ir.Node]) -> list[ir.Value]:
    """Return all outputs of these nodes, in their order."""
    return list(chain.from_iterable(node.outputs for node in nodes))


def size_of(value: ir.Value, axis: int) -> int | None:
    """Return the size of the value along an axis; None if it is not known before the graph runs."""
    if value.shape is None:
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def input_at(node: ir.Node | None, index: int | None) -> ir.Value | None:
    """Return the input of a node at this index; None if it is left out, or if `node` or `index` is
    None."""
    if node is None or index is None:
        return None
    if index >= len(node.inputs):
        return None
    return node.inputs[index]


def value_name(value: ir.Value | None) -> str:
    """Return the name of a value; "" for None and for a value without a name."""
    if value is None:
        return ""
    return value.name or ""


def name_of(node: ir.Node) -> str:
    """Return the name of a node in the file, or of its first output if the node has no name."""
    names = (node.name, *map(value_name, node.outputs), node.op_type)
    return next(filter(None, names))


def inputs(node: ir.Node) -> list[ir.Value]:
    """Return the inputs of a node that are not left out."""
    return [value for value in node.inputs if value is not None]


def only(items: Sequence[Item]) -> Item | None:
    """Return the item of a sequence that has exactly one; None for any other length."""
    if len(items) != 1:
        return None
    return items[0]


def only_user(value: ir.Value) -> ir.Node | None:
    """Return the only node that reads the value; None if several nodes read it or none does."""
    return only(value.consumers())


def read_by(value: ir.Value, *kinds: str) -> ir.Node | None:
    """Return the only node that reads the value if its operation is one of these kinds, else
    None."""
    user = only_user(value)
    if not is_kind(user, *kinds):
        return None
    return user


def readers(value: ir.Value, passes: Callable[[ir.Node], bool]) -> Iterator[ir.Node]:
    """Yield the nodes that read the value, looking through some of them to the readers of their
    first output.

    passes: true of a node that is looked through.
    """
    for user in value.consumers():
        if passes(user):
            yield from readers(user.outputs[0], passes)
        else:
            yield user


def upstream(value: ir.Value | None) -> Iterator[ir.Node]:
    """Yield the node that gives the value, then the node that gives its first input, and so on."""
    node = producer(value)
    while node is not None:
        yield node
        node = producer(input_at(node, 0))


def downstream(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the only node that reads the value, then the only node that reads its first output, and
    so on."""
    node = only_user(value)
    while node is not None:
        yield node
        node = only_user(node.outputs[0])


def source(value: ir.Value, passes: Callable[[ir.Node], bool]) -> ir.Value:
    """Return the value before a chain of nodes, each reached by the first input of the one
    after it.

    passes: true of a node that belongs to the chain.
    """
    for node in takewhile(passes, upstream(value)):
        value = input_at(node, 0) or value
    return value


def never(_: ir.Node) -> bool:
    """Return False: no node is looked through."""
    return False


def terms(
    node: ir.Node, kinds: Collection[str], passes: Callable[[ir.Node], bool] = never
) -> list[ir.Value]:
    """Return the terms of a sum, each once, with those of the sums that are its terms.

    kinds: operations that are sums.
    passes: true of nodes between two sums that are looked through.
    """

    def sum_before(value: ir.Value) -> ir.Node | None:
        return made_by(source(value, passes), *kinds)

    def onward(value: ir.Value) -> list[ir.Value]:
        inner = sum_before(value)
        return [] if inner is None else inputs(inner)

    return [value for value in reached(inputs(node), onward) if sum_before(value) is None]


def reached(starts: Iterable[Item], onward: Callable[[Item], Iterable[Item]]) -> dict[Item, int]:
    """Return each item that can be reached -> its number of steps from the nearest start, nearest
    first.

    starts: they are 0 steps away.
    onward: one step from an item to the next ones.
    """
    away = dict.fromkeys(starts, 0)
    waiting = deque(away)
    while waiting:
        item = waiting.popleft()
        new = dict.fromkeys((after for after in onward(item) if after not in away), away[item] + 1)
        away |= new
        waiting.extend(new)
    return away


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the subgraphs of an If, Loop or Scan."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def is_read(node: ir.Node) -> bool:
    """Return whether any output of the node is read by a node or is an output of the graph."""
    return any(map(is_needed, node.outputs))


def is_needed(value: ir.Value) -> bool:
    """Return whether the value is read by a node or is an output of the graph."""
    return value.is_graph_output() or bool(value.uses())


def remove_unread(nodes: Iterable[ir.Node]) -> None:
    """Remove, in this order, those of the nodes whose outputs nothing reads.

    Nodes that were removed from their graph before are skipped.
    """
    for node in nodes:
        if node.graph is not None and not is_read(node):
            node.graph.remove(node, safe=True)


def reader_kinds(value: ir.Value) -> set[str]:
    """Return the operations of the nodes that read the value."""
    return {user.op_type for user in value.consumers()}


def not_none(found: Thing | None) -> Thing:
    """Return the object, which the caller knows not to be None."""
    assert found is not None
    return found


def first_input(node: ir.Node) -> ir.Value:
    """Return the first input of a node whose operation requires one."""
    return not_none(node.inputs[0])


def graph_of(node: ir.Node) -> ir.Graph:
    """Return the graph or subgraph that holds the node, which must not have been removed."""
    return not_none(node.graph)


def insert_after(value: ir.Value, nodes: Sequence[ir.Node]) -> None:
    """Insert nodes after the node that gives the value, which must not be an input of the
    graph."""
    node = not_none(value.producer())
    graph_of(node).insert_after(node, nodes)
