"""Stores weights in the order in which their operation reads them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import RewriteMatches, needed, require
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.new_pair import new_pair
from sensitivity.onnx_graph.walk import of_kind


@dataclass(frozen=True, eq=False)
class _Turned:
    """A Transpose of a weight.

    pair: pair of the weight, with a Q.
    weight: the weight as the file stores it.
    """

    transpose: ir.Node
    pair: qdq.Pair
    weight: qdq.Array


class TransposedWeights(RewriteMatches[ir.Node, _Turned]):
    """Turns weight -> Q -> DQ -> Transpose -> MatMul into transposed weight -> Q -> DQ -> MatMul.
    No value changes.

    torch writes a Linear layer on more than two axes in this way. Engines look for weights directly
    after their pair.
    """

    def places(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return of_kind(graph, "Transpose")

    def match(self, place: ir.Node) -> _Turned:
        pair = needed(qdq.pair_of(place.inputs[0]))
        require(not pair.is_compact)
        require(pair.scale is not None)
        return _Turned(place, pair, needed(qdq.constant(pair.source)))

    def rewrite(self, graph: ir.Graph, found: _Turned) -> None:
        """Replace the Transpose by a new pair.

        The old pair may have other readers; a later pass removes it if it has none.
        """
        node, pair, weight = found.transpose, found.pair, found.weight
        backwards = tuple(reversed(range(weight.ndim)))
        order = list(node.attributes.get_ints("perm", backwards))
        axis = pair.axis_in(weight.ndim)
        turned = np.ascontiguousarray(weight.transpose(order))
        stored = add(graph, f"{pair.source.name}.transposed", turned)
        parameters: list[ir.Value | None] = list(pair.dequantize.inputs[1:3])
        if pair.block is not None:
            parameters = [_turned(graph, value, order) for value in parameters]
        quantize, dequantize = new_pair(
            stored,
            parameters,
            None if axis is None else order.index(axis),
            (pair.nodes[0].name, pair.dequantize.name),
            pair.block,
        )
        graph.insert_before(node, [quantize, dequantize])
        node.outputs[0].replace_all_uses_with(dequantize.outputs[0])
        graph.remove(node, safe=True)


def _turned(graph: ir.Graph, value: ir.Value | None, order: list[int]) -> ir.Value | None:
    """Return transposed scales or zero points in blocks, which have the axes of the weight."""
    array = qdq.constant(value)
    if value is None or array is None:
        return value
    return add(graph, f"{value.name}.transposed", array.transpose(order), value.dtype)
