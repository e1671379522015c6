"""Keeps float weights in float in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from sensitivity.onnx_graph.integer_layers import IntegerLayer, integer_layers
from sensitivity.onnx_graph.matching import RewriteInTurn, require
from sensitivity.onnx_graph.passes.copy_of import copy_of


class KeepFloat(RewriteInTurn[IntegerLayer, IntegerLayer]):
    """Puts a Sum of one value between a layer with a float weight and the Q after it.

    Without it, ONNX Runtime would quantize the weight.
    """

    def places(self, graph: ir.Graph) -> Iterable[IntegerLayer]:
        return integer_layers(graph)

    def match(self, place: IntegerLayer) -> IntegerLayer:
        require(place.weight is None)
        return place

    def rewrite(self, graph: ir.Graph, found: IntegerLayer) -> None:
        (quantize,) = found.output.consumers()
        same = copy_of(found.output, "float", named=found.node.name)
        graph.insert_before(quantize, same)
        quantize.replace_input_with(0, same.outputs[0])
