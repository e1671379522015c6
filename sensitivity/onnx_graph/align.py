"""Which operation and tensor of a float model each operation and tensor of a Q/DQ file stands
for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.clamps import CLAMPING, RESTORED, UNLIMITED, Limits, limits_of, within
from sensitivity.onnx_graph.passes.skip_uses import dequantized

PASSING = {"Identity", "Dropout", "QuantizeLinear", "DequantizeLinear"}
"""Operations whose output stands for the same tensor of the float model as their first input."""

OUTPUT_SUFFIX = "_QuantizeLinear_Input"
"""What ONNX Runtime's quantizer puts behind the name of a graph output, in front of its pair."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """nodes: operation of the Q/DQ file -> that of the float model. values: tensor -> tensor that
    it stands for.

    limits: tensor of the Q/DQ file -> what the activations between it and its operation, which only
    the float model has, limit it to. A tensor is left out where that is not known. unmatched:
    operations of the Q/DQ file that read something computed and that no operation of the float
    model stands for.
    """

    nodes: dict[ir.Node, ir.Node] = field(default_factory=dict)
    values: dict[ir.Value, ir.Value] = field(default_factory=dict)
    limits: dict[ir.Value, Limits] = field(default_factory=dict)
    unmatched: list[ir.Node] = field(default_factory=list)


def align(graph: ir.Graph, original: ir.Graph) -> Alignment:
    """Follow both graphs from their inputs. graph: of the Q/DQ file. original: of the float model.

    Two operations stand for each other where they are of one kind and read tensors that do; the
    name of a node or of its output decides among several, and joins what comes after a part that
    differs. Sub-graphs are not entered.
    """
    return _Aligner(graph, original).align()


class _Aligner:
    def __init__(self, graph: ir.Graph, original: ir.Graph) -> None:
        self._graph, self._original = graph, original
        self._found = Alignment()
        self._taken: set[ir.Node] = set()
        self._by_name: dict[str | None, ir.Node] = {
            node.name: node for node in original if node.name
        }
        self._by_output: dict[str | None, ir.Node] = {
            value.name: node for node in original for value in node.outputs if value.name
        }

    def align(self) -> Alignment:
        for own, theirs in zip(*ports(self._graph.inputs, self._original.inputs), strict=True):
            self._found.values[own] = theirs
            self._found.limits[own] = UNLIMITED
        for node in self._graph:
            if node.op_type in PASSING:
                self._pass_on(node)
                continue
            twin = next(
                iter(sorted(self._candidates(node), key=lambda one: self._rank(node, one))), None
            )
            if twin is not None:
                self._join(node, twin)
            elif any(
                value is not None and not qdq.rooted_at_constant(value) for value in node.inputs
            ):
                self._found.unmatched.append(node)
        return self._found

    def _pass_on(self, node: ir.Node) -> None:
        source = node.inputs[0]
        if source in self._found.values:
            self._found.values[node.outputs[0]] = self._found.values[source]

    def _candidates(self, node: ir.Node) -> list[ir.Node]:
        """Operations of the float model that this one can stand for."""
        named = [self._by_name.get(node.name), *self._by_output_name(node)]
        twins = [self._found.values[value] for value in node.inputs if value in self._found.values]
        near = [reader for twin in twins[:1] for reader in _readers(twin)]
        every = dict.fromkeys(one for one in (*named, *near) if one is not None)
        return [one for one in every if one not in self._taken and self._fits(node, one)]

    def _by_output_name(self, node: ir.Node) -> Iterator[ir.Node]:
        """The operation whose output has this name, or that before the activations whose output has
        it."""
        found = self._by_output.get(node.outputs[0].name)
        while found is not None:
            yield found
            first = found.inputs[0] if found.op_type in CLAMPING else None
            found = first.producer() if first is not None else None

    def _fits(self, node: ir.Node, other: ir.Node) -> bool:
        if (node.op_type, node.domain) != (other.op_type, other.domain):
            return False
        if len(node.outputs) != len(other.outputs):
            return False
        for index, value in enumerate(node.inputs):
            twin = self._found.values.get(value) if value is not None else None
            theirs = other.inputs[index] if index < len(other.inputs) else None
            if twin is not None and (
                theirs is None or _behind_passing(theirs) is not _behind_passing(twin)
            ):
                return False
        return True

    def _rank(self, node: ir.Node, other: ir.Node) -> tuple[int, float]:
        """Smallest first: the same name, then the same output's name, then the nearest weight."""
        if node.name and node.name == other.name:
            return 0, 0.0
        if other in self._by_output_name(node):
            return 1, 0.0
        return 2, _weight_distance(node, other)

    def _join(self, node: ir.Node, other: ir.Node) -> None:
        self._found.nodes[node] = other
        self._taken.add(other)
        for own, theirs in zip(node.outputs, other.outputs, strict=True):
            self._found.values[own], limits = self._behind_removed(own, theirs)
            if limits is not None:
                self._found.limits[own] = limits

    def _behind_removed(self, own: ir.Value, theirs: ir.Value) -> tuple[ir.Value, Limits | None]:
        """The tensor of the float model behind the activations that the Q/DQ file has no more, and
        what they limit."""
        limits: Limits | None = UNLIMITED
        for removed in _removed(own, theirs):
            limits = within(limits, limits_of(removed))
            theirs = removed.outputs[0]
        return theirs, limits


def _removed(own: ir.Value, theirs: ir.Value) -> list[ir.Node]:
    """The activations behind `theirs`, each its only reader, that are no more behind `own`.

    ONNX Runtime's quantizer gives the tensor the name that the last of them had. Without such a
    name they are those whose kind does not read `own`.
    """
    chain: list[ir.Node] = []
    value = theirs
    while (found := _only_activation(value)) is not None:
        chain.append(found)
        value = found.outputs[0]
    readers = _readers(own)
    if not any((reader.name or "").endswith(RESTORED) for reader in readers):
        names = [node.outputs[0].name for node in chain]
        name = (own.name or "").removesuffix(OUTPUT_SUFFIX)
        if name in names:
            return chain[: names.index(name) + 1]
    kept = {reader.op_type for reader in readers}
    return list(itertools.takewhile(lambda node: node.op_type not in kept, chain))


def _only_activation(value: ir.Value) -> ir.Node | None:
    """The Relu or Clip that alone reads the value; None where there is none."""
    readers = _readers(value)
    single = readers[0] if len(readers) == 1 and not value.is_graph_output() else None
    if single is None or single.op_type not in CLAMPING or single.inputs[0] is None:
        return None
    # not one of the ends of a Clip
    return single if _behind_passing(single.inputs[0]) is value else None


def ports(
    own: Iterable[ir.Value], theirs: Iterable[ir.Value]
) -> tuple[list[ir.Value], list[ir.Value]]:
    """Inputs (or outputs) that stand for each other: of one name, or all by position where there
    are as many."""
    ours = [value for value in own if not value.is_initializer()]
    others = [value for value in theirs if not value.is_initializer()]
    by_name = {value.name: value for value in others}
    if len(ours) == len(others) and not all(value.name in by_name for value in ours):
        return ours, others
    both = [value for value in ours if value.name in by_name]
    return both, [by_name[value.name] for value in both]


def _readers(value: ir.Value) -> list[ir.Node]:
    """The operations that read the value, perhaps through operations that pass it on."""
    found: list[ir.Node] = []
    for node, _ in value.uses():
        found += _readers(node.outputs[0]) if node.op_type in PASSING else [node]
    return list(dict.fromkeys(found))


def _behind_passing(value: ir.Value) -> ir.Value:
    """The value that operations which only pass on give this one from."""
    node = value.producer()
    while node is not None and node.op_type in PASSING and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _weight_distance(node: ir.Node, other: ir.Node) -> float:
    """How far apart the weights of two operations are, relative to the second; 0 where they cannot
    be compared."""
    index = qdq.WEIGHT_INPUT.get(node.op_type)
    if index is None or len(node.inputs) <= index or len(other.inputs) <= index:
        return 0.0
    own, theirs = _weight_values(node.inputs[index]), _weight_values(other.inputs[index])
    if own is None or theirs is None or own.shape != theirs.shape:
        return np.inf if own is not None or theirs is not None else 0.0
    return float(np.linalg.norm(own - theirs) / max(float(np.linalg.norm(theirs)), 1e-30))


def _weight_values(value: ir.Value | None) -> Any:
    pair = qdq.through_transpose(value)
    if pair is not None and pair.quantize is None and pair.scale is not None:
        return dequantized(pair)
    return qdq.constant(pair.source if pair is not None else value)
