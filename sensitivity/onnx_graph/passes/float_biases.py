"""Stores biases as the float values of their integers, whose scale belongs to the types that a
layer reads before it is lowered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import RewriteInTurn, needed, require
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.uses import BIAS_INPUT, is_integer_bias
from sensitivity.onnx_graph.walk import input_at


@dataclass(frozen=True, eq=False)
class _Bias:
    """A bias that is stored as INT32.

    values: what its DQ gives.
    """

    node: ir.Node
    pair: qdq.Pair
    values: np.ndarray


class FloatBiases(RewriteInTurn[ir.Node, _Bias]):
    """Computes the DQ of INT32 biases at export. No value changes."""

    def places(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return qdq.weighted_nodes(graph)

    def match(self, place: ir.Node) -> _Bias:
        pair = needed(qdq.pair_of(input_at(place, BIAS_INPUT)))
        require(is_integer_bias(pair))
        scale, levels = needed(pair.scale), qdq.known(pair.source)
        return _Bias(place, pair, (levels * scale.astype(np.float64)).astype(np.float32))

    def rewrite(self, graph: ir.Graph, found: _Bias) -> None:
        values = add(graph, f"{found.pair.source.name}.float", found.values)
        found.node.replace_input_with(BIAS_INPUT, values)
