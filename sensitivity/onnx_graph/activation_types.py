"""Finds the type in which each operation of a file reads and writes its activations, for runtimes
whose operations have one type for both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.clamps import CLAMPING
from sensitivity.onnx_graph.walk import only_user

NARROW, WIDE = 8, 16
"""Bits of activations. Values that an operation in float reads, and those that the model gives, are
written in WIDE ones."""

FLOAT = 32
"""Stands for the bits of an operation that computes in float."""


@dataclass(frozen=True, eq=False)
class Read:
    """An activation that an operation reads.

    index: index of the operation's input.
    value: the activation before all pairs.
    pair: the pair nearest to the operation; None if it reads the activation unrounded.
    """

    node: ir.Node
    index: int
    value: ir.Value
    pair: qdq.Pair | None

    @property
    def bits(self) -> int:
        """Bits of the pair; 0 if there is none."""
        return bits_of(self.pair)


class ActivationTypes:
    """The bits in which each operation of a graph reads and writes its activations.

    A layer has the bits of the pair on its input. If what it writes is wanted in 16 bits, it has
    16, and reads values in 8 bits converted. Any other operation has the most bits in which its
    output is wanted, so that no value is rounded more coarsely on its way to a layer than by the
    layer's own pair. Layers without pairs compute in float, and so do operations that read only
    what these give.

    Layers are operations with weights, and products of activations that are quantized. A Relu or
    Clip has the bits of the operation before it, within which runtimes compute it.

    reads: activation -> the operations that read it, in the graph's order.
    given: activation -> the outputs of the graph that give it, perhaps rounded by a pair.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.reads = defaultdict[ir.Value, list[Read]](list)
        nodes = [node for node in graph if node.op_type not in qdq.PAIR]
        self._own = {node: list(_reads(node)) for node in nodes}
        self._layers = set(filter(self._is_layer, nodes))
        self.given = defaultdict[ir.Value, list[ir.Value]](list)
        for output in graph.outputs:
            self.given[unrounded(output)].append(output)
        self._bits: dict[ir.Node, int] = {}
        for node in nodes:
            for read in self._own[node]:
                self.reads[read.value].append(read)
            if self._computes_in_float(node):
                self._bits[node] = FLOAT
        for node in reversed(nodes):
            of_pairs = (read.bits for read in self._own[node])
            wanted = map(self.wanted, node.outputs)
            self._bits.setdefault(node, max(NARROW, *of_pairs, *wanted))
        for node in nodes:
            before = self._computed_within(node)
            if before is not None:
                self._bits[node] = self._bits[before]

    def reads_of(self, node: ir.Node) -> list[Read]:
        """Return the activations that an operation reads."""
        return self._own[node]

    def of(self, node: ir.Node) -> int:
        """Return the bits of an operation; FLOAT if it computes in float."""
        return self._bits[node]

    def is_float(self, value: ir.Value) -> bool:
        """Return whether an operation in float gives the value."""
        node = value.producer()
        return node is not None and self._bits.get(node) == FLOAT

    def written(self, value: ir.Value) -> int:
        """Return the bits in which a value is written, unless it stays in float."""
        node = value.producer()
        if node is None or self.is_float(value):
            return max(NARROW, self.wanted(value))
        return self._bits[node]

    def wanted(self, value: ir.Value) -> int:
        """Return the most bits in which a value is wanted; 0 if nothing reads it."""
        wanted = map(self._wanted_by, self.reads.get(value, ()))
        given = (bits_of(qdq.pair_of(output)) or WIDE for output in self.given.get(value, ()))
        return max((*given, *wanted), default=0)

    def _wanted_by(self, read: Read) -> int:
        bits = self._bits[read.node]
        if bits == FLOAT:
            return WIDE
        return read.bits if read.node in self._layers else bits

    def _computed_within(self, node: ir.Node) -> ir.Node | None:
        """Return the operation before a Relu or Clip that is the only reader of what it gives;
        None for any other node."""
        if node.op_type not in CLAMPING or not self._own[node]:
            return None
        (read,) = self._own[node]
        is_only = read.pair is None and only_user(read.value) is node
        return read.value.producer() if is_only else None

    def _computes_in_float(self, node: ir.Node) -> bool:
        """Return whether a node computes in float, where this is known of the nodes before it."""
        reads = self._own[node]
        is_rounded = [read.pair is not None for read in reads]
        if node in self._layers:
            weight = qdq.weight(node)
            has_float_weight = weight is not None and qdq.through_transpose(weight) is None
            return has_float_weight or not all(is_rounded)
        is_read = bool(reads) and not any(is_rounded)
        return is_read and all(self.is_float(read.value) for read in reads)

    def _is_layer(self, node: ir.Node) -> bool:
        if node.op_type not in qdq.WEIGHT_INPUT:
            return False
        return qdq.weight(node) is not None or all(read.pair for read in self._own[node])


def bits_of(pair: qdq.Pair | None) -> int:
    """Return the bits of a pair's integers, which are uint8 without a zero point; 0 for None."""
    if pair is None:
        return 0
    return NARROW if pair.zero_point is None else int(np.iinfo(pair.zero_point.dtype).bits)


def unrounded(value: ir.Value) -> ir.Value:
    """Return the value before all pairs in front of this one."""
    pair = qdq.pair_of(value)
    while pair is not None:
        value = pair.source
        pair = qdq.pair_of(value)
    return value


def _reads(node: ir.Node) -> Iterator[Read]:
    """Yield the activations that a node reads, in float or rounded."""
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype is not ir.DataType.FLOAT or qdq.rooted_at_constant(value):
            continue
        yield Read(node, index, unrounded(value), qdq.pair_of(value))
