"""Steps through a graph that may lead nowhere: each takes None and gives None there, so that a
chain of them needs no check in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import chain, takewhile
from typing import TypeGuard, TypeVar

import onnx_ir as ir

Item = TypeVar("Item", bound=Hashable)
Thing = TypeVar("Thing")


def producer(value: ir.Value | None) -> ir.Node | None:
    """Return the operation that gives this value; None for an input, an initializer and no
    value."""
    if value is None:
        return None
    return value.producer()


def producers(values: Iterable[ir.Value | None]) -> list[ir.Node]:
    """Return the operations that give these values, each once, in the order of the values."""
    return list(dict.fromkeys(filter(None, map(producer, values))))


def is_kind(node: ir.Node | None, *kinds: str) -> TypeGuard[ir.Node]:
    """Return whether there is a node, and its operation is one of these kinds."""
    return node is not None and node.op_type in kinds


def made_by(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """Return the operation that gives this value where it is of one of these kinds, else None."""
    node = producer(value)
    if node is None or node.op_type not in kinds:
        return None
    return node


def of_kind(nodes: Iterable[ir.Node], *kinds: str) -> list[ir.Node]:
    """Return the operations of these kinds, in their order. nodes: a graph for its own operations,
    `graph.all_nodes()` for those of the bodies in it as well."""
    return [node for node in nodes if node.op_type in kinds]


def all_outputs(nodes: Iterable[ir.Node]) -> list[ir.Value]:
    """Return all that these operations give, in their order."""
    return list(chain.from_iterable(node.outputs for node in nodes))


def size_of(value: ir.Value, axis: int) -> int | None:
    """Return how long the value is along an axis; None where that is not known before it is
    computed."""
    if value.shape is None:
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def given(node: ir.Node | None, index: int | None) -> ir.Value | None:
    """Return the input at this place; None where it is left out, also at the end of the list, and
    for no place."""
    if node is None or index is None:
        return None
    if index >= len(node.inputs):
        return None
    return node.inputs[index]


def value_name(value: ir.Value | None) -> str:
    """Return the name of a value; "" for one that has none, and for an input that is left out."""
    if value is None:
        return ""
    return value.name or ""


def name_of(node: ir.Node) -> str:
    """Return its name in the file; that of its first output where it has none."""
    names = (node.name, *map(value_name, node.outputs), node.op_type)
    return next(filter(None, names))


def inputs(node: ir.Node) -> list[ir.Value]:
    """Return the inputs that are not left out."""
    return [value for value in node.inputs if value is not None]


def only(found: Sequence[Item]) -> Item | None:
    """Return the one item that was found; None where there is none, or there are several."""
    if len(found) != 1:
        return None
    return found[0]


def only_user(value: ir.Value) -> ir.Node | None:
    """Return the operation that alone reads the value; None where several do, or none does."""
    return only(value.consumers())


def read_by(value: ir.Value, *kinds: str) -> ir.Node | None:
    """Return the operation that alone reads the value where it is of one of these kinds, else
    None."""
    user = only_user(value)
    if not is_kind(user, *kinds):
        return None
    return user


def readers(value: ir.Value, passes: Callable[[ir.Node], bool]) -> Iterator[ir.Node]:
    """Yield the operations that read the value, also behind those that `passes` is true of, by
    their first outputs."""
    for user in value.consumers():
        if passes(user):
            yield from readers(user.outputs[0], passes)
        else:
            yield user


def before(value: ir.Value | None) -> Iterator[ir.Node]:
    """Yield the operation that gives the value, the one that gives its first input, and so on."""
    node = producer(value)
    while node is not None:
        yield node
        node = producer(given(node, 0))


def behind(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the operation that alone reads the value, the one that alone reads its first output,
    and so on."""
    node = only_user(value)
    while node is not None:
        yield node
        node = only_user(node.outputs[0])


def source(value: ir.Value, passes: Callable[[ir.Node], bool]) -> ir.Value:
    """Return the value in front of all operations that `passes` is true of, by their first
    inputs."""
    for node in takewhile(passes, before(value)):
        value = given(node, 0) or value
    return value


def reached(starts: Iterable[Item], onward: Callable[[Item], Iterable[Item]]) -> dict[Item, int]:
    """Return how many steps everything that can be reached is away from the nearest start, the
    nearest first; the starts are 0 away. onward: one step from an item to the next ones."""
    away = dict.fromkeys(starts, 0)
    waiting = deque(away)
    while waiting:
        item = waiting.popleft()
        new = dict.fromkeys((after for after in onward(item) if after not in away), away[item] + 1)
        away |= new
        waiting.extend(new)
    return away


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that an If, Loop or Scan holds."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def is_read(node: ir.Node) -> bool:
    """Return whether an operation reads anything that this one gives, or the graph gives it on."""
    return any(map(is_needed, node.outputs))


def is_needed(value: ir.Value) -> bool:
    """Return whether an operation reads the value, or the graph gives it on."""
    return value.is_graph_output() or bool(value.uses())


def remove_unread(nodes: Iterable[ir.Node]) -> None:
    """Remove those of these operations that nothing reads, in this order; those that stand in no
    graph any more are passed over."""
    for node in nodes:
        if node.graph is not None and not is_read(node):
            node.graph.remove(node, safe=True)


def reader_kinds(value: ir.Value) -> set[str]:
    """Return the kinds of the operations that read the value."""
    return {user.op_type for user in value.consumers()}


def there(found: Thing | None) -> Thing:
    """Return the object itself, of which the caller knows that it is there."""
    assert found is not None
    return found


def first_input(node: ir.Node) -> ir.Value:
    """Return the first input of an operation that cannot be without one."""
    return there(node.inputs[0])


def graph_of(node: ir.Node) -> ir.Graph:
    """Return the graph, or the body, that the node stands in. Not for nodes that were removed."""
    return there(node.graph)


def insert_behind(value: ir.Value, nodes: Sequence[ir.Node]) -> None:
    """Put nodes behind the operation that gives the value. Not for inputs of a graph."""
    node = there(value.producer())
    graph_of(node).insert_after(node, nodes)
