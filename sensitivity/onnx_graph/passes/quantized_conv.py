"""Finds convolutions that runtimes compute in integers."""

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

    given: pair of the activation, with a Q.
    weight: pair of the weight.
    values: the weight as it is stored, [out, in, ...].
    """

    node: ir.Node
    given: qdq.Pair
    weight: qdq.Pair
    values: qdq.Array


def quantized_convs(graph: ir.Graph) -> Iterator[QuantizedConv]:
    """Return the convolutions of the main graph whose activation has one scale, and whose weight
    has one, or one per output channel."""
    return matches(_quantized, of_kind(graph, "Conv"))


def _quantized(node: ir.Node) -> QuantizedConv:
    """Return the convolution of this node. Raises NoMatch if its pairs or their scales are
    others."""
    require(node.attributes.get_int("group", 1) == 1)
    given, weight = map(needed, map(qdq.pair_of, node.inputs[:2]))
    require(not given.is_compact)
    require(given.axis is None)
    require(weight.axis in {None, 0})
    values = needed(qdq.constant(weight.source))
    return QuantizedConv(node, given, weight, values)
