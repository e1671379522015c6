"""Convolutions that runtimes compute in integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import matches, needed, require
from sensitivity.onnx_graph.walk import of_kind


@dataclass(frozen=True, eq=False)
class QuantizedConv:
    """A convolution of one group.

    given, weight: the pairs that it reads, the first with a Q. values: of the weight as they are
    stored, [out, in, ...].
    """

    node: ir.Node
    given: qdq.Pair
    weight: qdq.Pair
    values: qdq.Array


def quantized_convs(graph: ir.Graph) -> Iterator[QuantizedConv]:
    """Return those of the main graph with one scale for the activation, and one for the weight or
    one for each output channel."""
    return matches(_quantized, of_kind(graph, "Conv"))


def _quantized(node: ir.Node) -> QuantizedConv:
    """Raises NoMatch where it is none of those."""
    require(node.attributes.get_int("group", 1) == 1)
    given, weight = map(needed, map(qdq.pair_of, node.inputs[:2]))
    require(not given.is_compact)
    require(given.axis is None)
    require(weight.axis in {None, 0})
    values = needed(qdq.constant(weight.source))
    return QuantizedConv(node, given, weight, values)
