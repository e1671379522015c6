"""Keeps layers in float apart from the pairs around them, for ONNX Runtime's QNN execution
provider."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import RewriteInTurn, require
from sensitivity.onnx_graph.walk import first_input, insert_after


class ApartInFloat(RewriteInTurn[ir.Node, ir.Node]):
    """Puts a LeakyRelu with the slope 1, which changes no value, before and after a layer with a
    float weight.

    Behind a pair of 8 bits the layer would pad with another value than 0 (SQ802), and before a pair
    ONNX Runtime would store its bias as INT32, which QNN does not take for it. QNN has no Sum, with
    which `KeepFloat` keeps layers apart.
    """

    def places(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return qdq.weighted_nodes(graph)

    def match(self, place: ir.Node) -> ir.Node:
        require(qdq.through_transpose(qdq.weight(place)) is None)
        return place

    def rewrite(self, graph: ir.Graph, found: ir.Node) -> None:
        before = _same(first_input(found), f"{found.name}/before")
        graph.insert_before(found, before)
        found.replace_input_with(0, before.outputs[0])
        output = found.outputs[0]
        after = _same(output, f"{found.name}/after")
        for reader, index in list(output.uses()):
            reader.replace_input_with(index, after.outputs[0])
        after.replace_input_with(0, output)
        insert_after(output, [after])


def _same(value: ir.Value, name: str) -> ir.Node:
    same = ir.node("LeakyRelu", [value], {"alpha": 1.0}, name=name)
    same.outputs[0].type, same.outputs[0].shape = value.type, value.shape
    same.outputs[0].name = name
    return same
