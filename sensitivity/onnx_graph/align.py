"""Finds, for each operation and tensor of a Q/DQ file, its counterpart in the float model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, filterfalse, takewhile
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.clamps import CLAMPING, RESTORED, UNLIMITED, Limits, limits_of, within
from sensitivity.onnx_graph.matching import match_or_none, needed, require
from sensitivity.onnx_graph.passes.skip_uses import dequantized
from sensitivity.onnx_graph.walk import (
    first_input,
    input_at,
    name_of,
    only,
    producer,
    readers,
    source,
    value_name,
)

PASSING = {"Identity", "Dropout", "QuantizeLinear", "DequantizeLinear"}
"""Operations whose output has the same counterpart as their first input."""

OUTPUT_SUFFIX = "_QuantizeLinear_Input"
"""Suffix that ONNX Runtime's quantizer adds to the name of a graph output, for the tensor before
its pair."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Counterparts of a Q/DQ file in the float model.

    nodes: operation of the Q/DQ file -> its counterpart.
    values: tensor of the Q/DQ file -> its counterpart.
    limits: tensor of the Q/DQ file -> limits from activations that only the float model has after
        its operation. Tensors whose limits are not known are left out.
    unmatched: operations of the Q/DQ file that read computed values and have no counterpart.
    """

    nodes: dict[ir.Node, ir.Node] = field(default_factory=dict)
    values: dict[ir.Value, ir.Value] = field(default_factory=dict)
    limits: dict[ir.Value, Limits] = field(default_factory=dict)
    unmatched: list[ir.Node] = field(default_factory=list)


def align(graph: ir.Graph, original: ir.Graph) -> Alignment:
    """Return the counterparts of a graph, following both graphs from their inputs.

    Two operations are counterparts if they are of one kind and read tensors that are counterparts.
    If there are several, the name of the node or of its output decides. Names also find
    counterparts again after a part that differs. Subgraphs are not entered.

    graph: graph of the Q/DQ file.
    original: graph of the float model.
    """
    return _Aligner(graph, original).align()


class _Aligner:
    """Follows both graphs and collects counterparts."""

    def __init__(self, graph: ir.Graph, original: ir.Graph) -> None:
        self._graph, self._original = graph, original
        self._found = Alignment()
        self._taken: set[ir.Node] = set()
        self._by_name = {node.name or "": node for node in original}
        self._by_output: dict[str, ir.Node] = {}
        for node in original:
            self._by_output |= dict.fromkeys(map(value_name, node.outputs), node)
        # Nodes and outputs without a name cannot be found by name.
        for known in (self._by_name, self._by_output):
            known.pop("", None)

    def align(self) -> Alignment:
        """Return all counterparts."""
        for own, theirs in zip(*ports(self._graph.inputs, self._original.inputs), strict=True):
            self._found.values[own] = theirs
            self._found.limits[own] = UNLIMITED
        for node in self._graph:
            if _passes(node):
                self._pass_on(node)
            else:
                self._match(node)
        return self._found

    def _match(self, node: ir.Node) -> None:
        """Find the counterpart of this node in the float model."""
        candidates = self._candidates(node)
        if candidates:
            self._join(node, min(candidates, key=lambda other: self._rank(node, other)))
        elif qdq.computed_inputs(node):
            self._found.unmatched.append(node)

    def _pass_on(self, node: ir.Node) -> None:
        """Give the output of a passing operation the counterpart of its input."""
        source = node.inputs[0]
        if source in self._found.values:
            self._found.values[node.outputs[0]] = self._found.values[source]

    def _candidates(self, node: ir.Node) -> list[ir.Node]:
        """Return the operations of the float model that can be the counterpart of this one."""
        likely = chain(
            self._by_node_name(node), self._by_output_name(node), self._reading_the_same(node)
        )
        return [other for other in dict.fromkeys(likely) if self._fits(node, other)]

    def _reading_the_same(self, node: ir.Node) -> list[ir.Node]:
        """Return the readers of the counterpart of the node's first input that has one."""
        known = (value for value in node.inputs if value in self._found.values)
        first = next(known, None)
        if first is None:
            return []
        return _readers(self._found.values[first])

    def _by_node_name(self, node: ir.Node) -> list[ir.Node]:
        """Return the operation of the same name, if there is one."""
        named = self._by_name.get(node.name or "")
        if named is None:
            return []
        return [named]

    def _by_output_name(self, node: ir.Node) -> Iterator[ir.Node]:
        """Yield the operation whose output has the name of this node's output, and those before it
        if it is an activation."""
        other = self._by_output.get(value_name(node.outputs[0]))
        while other is not None:
            yield other
            other = producer(other.inputs[0]) if other.op_type in CLAMPING else None

    def _fits(self, node: ir.Node, other: ir.Node) -> bool:
        """Return whether the other node is free, of the same kind, and agrees in all inputs with
        known counterparts."""
        if other in self._taken or _kind(node) != _kind(other):
            return False
        theirs = (input_at(other, index) for index in range(len(node.inputs)))
        return all(map(self._may_agree, node.inputs, theirs))

    def _may_agree(self, own: ir.Value | None, theirs: ir.Value | None) -> bool:
        """Return False if the counterpart of `own` is known and is not `theirs`."""
        if own not in self._found.values:
            return True
        twin = self._found.values[own]
        return theirs is not None and _behind_passing(theirs) is _behind_passing(twin)

    def _rank(self, node: ir.Node, other: ir.Node) -> tuple[int, float]:
        """Return a sort key, smallest first: equal names, then equal names of outputs, then the
        nearest weight."""
        if node.name and node.name == other.name:
            return 0, 0.0
        if other in self._by_output_name(node):
            return 1, 0.0
        return 2, _weight_distance(node, other)

    def _join(self, node: ir.Node, other: ir.Node) -> None:
        """Make two nodes counterparts, with their outputs."""
        self._found.nodes[node] = other
        self._taken.add(other)
        for own, theirs in zip(node.outputs, other.outputs, strict=True):
            self._found.values[own], limits = self._behind_removed(own, theirs)
            if limits is not None:
                self._found.limits[own] = limits

    def _behind_removed(self, own: ir.Value, theirs: ir.Value) -> tuple[ir.Value, Limits | None]:
        """Return the counterpart of a tensor after the activations that the Q/DQ file no longer
        has, and their limits."""
        limits: Limits | None = UNLIMITED
        for removed in _removed(own, theirs):
            limits = within(limits, limits_of(removed))
            theirs = removed.outputs[0]
        return theirs, limits


def _kind(node: ir.Node) -> tuple[str, str, int]:
    """Return what two operations must have in common to be counterparts."""
    return node.op_type, node.domain, len(node.outputs)


def _removed(own: ir.Value, theirs: ir.Value) -> list[ir.Node]:
    """Return the activations after `theirs`, each the only reader of the one before, that the Q/DQ
    file no longer has.

    ONNX Runtime's quantizer gives `own` the name of the last removed activation's output. Without
    such a name, the removed ones are those up to the first whose kind reads `own`.
    """
    removed = list(_activations_after(theirs))
    names = [node.outputs[0].name for node in removed]
    name = value_name(own).removesuffix(OUTPUT_SUFFIX)
    users = _readers(own)
    is_named = name in names and not any(map(_is_restored, users))
    if is_named:
        return removed[: names.index(name) + 1]
    kept = {user.op_type for user in users}
    return list(takewhile(lambda node: node.op_type not in kept, removed))


def _is_restored(activation: ir.Node) -> bool:
    """Return whether an activation was put back after the quantizer had removed it."""
    return name_of(activation).endswith(RESTORED)


def _activations_after(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the chain of activations after the value, each the only reader of the one before
    it."""
    activation = match_or_none(_only_activation, value)
    while activation is not None:
        yield activation
        activation = match_or_none(_only_activation, activation.outputs[0])


def _only_activation(value: ir.Value) -> ir.Node:
    """Return the Relu or Clip that is the only reader of the value. Raises NoMatch if there is
    none."""
    require(not value.is_graph_output())
    user = needed(only(_readers(value)))
    require(user.op_type in CLAMPING)
    # The value could also be one of the limits of a Clip.
    require(_behind_passing(first_input(user)) is value)
    return user


def ports(
    own: Iterable[ir.Value], theirs: Iterable[ir.Value]
) -> tuple[list[ir.Value], list[ir.Value]]:
    """Return the inputs (or outputs) of both graphs that are counterparts.

    They are matched by name, or all by position if some name has no match and both graphs have
    equally many.
    """
    ours, others = _without_initializers(own), _without_initializers(theirs)
    by_name = {value.name: value for value in others}
    named = [value for value in ours if value.name in by_name]
    is_one_without_name = len(named) < len(ours)
    if is_one_without_name and len(ours) == len(others):
        return ours, others
    return named, [by_name[value.name] for value in named]


def _without_initializers(values: Iterable[ir.Value]) -> list[ir.Value]:
    """Return the values that are not initializers.

    Old files list initializers among the graph's inputs too, although nobody feeds them.
    """
    return list(filterfalse(ir.Value.is_initializer, values))


def _readers(value: ir.Value) -> list[ir.Node]:
    """Return the operations that read the value, directly or through passing operations."""
    return list(dict.fromkeys(readers(value, _passes)))


def _behind_passing(value: ir.Value) -> ir.Value:
    """Return the value before the passing operations that give this one."""
    return source(value, _passes)


def _passes(node: ir.Node) -> bool:
    return node.op_type in PASSING


def _weight_distance(node: ir.Node, other: ir.Node) -> float:
    """Return the distance of two operations' weights, relative to the second one.

    Returns inf if their shapes differ, and 0 if neither has a weight that is known.
    """
    own, theirs = map(_weight_values, (node, other))
    if own.shape != theirs.shape:
        return np.inf
    return float(np.linalg.norm(own - theirs) / max(float(np.linalg.norm(theirs)), 1e-30))


def _weight_values(node: ir.Node) -> NDArray[Any]:
    """Return the weight of an operation in float; an empty array if it has none that is known."""
    value = input_at(node, qdq.WEIGHT_INPUT.get(node.op_type))
    pair = qdq.through_transpose(value)
    if pair is None:
        values = qdq.constant(value)
    elif pair.is_compact and pair.scale is not None:
        return dequantized(pair)
    else:
        values = qdq.constant(pair.source)
    if values is None:
        return np.zeros(0)
    return values
