"""Keeps operations apart that ONNX Runtime's QNN execution provider computes wrong beside each
other, by a LeakyRelu with the slope 1, which changes no value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.activation_types import WIDE, ActivationTypes, unrounded
from sensitivity.onnx_graph.matching import NoMatch, RewriteInTurn, needed, require
from sensitivity.onnx_graph.walk import first_input, insert_after, made_by, of_kind


class ApartInFloat(RewriteInTurn[ir.Node, ir.Node]):
    """Puts a LeakyRelu with the slope 1 before and after a layer with a float weight.

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


@dataclass(frozen=True, eq=False)
class _Silu:
    """A product of a value with its own sigmoid.

    index: input of the product that reads the value itself.
    """

    product: ir.Node
    index: int


class ApartInSilu(RewriteInTurn[ir.Node, _Silu]):
    """Puts a LeakyRelu with the slope 1 before the product of a SiLU in 16 bits.

    QNN's HTP backend computes x * sigmoid(x) wrong in 16 bits if x comes from a convolution
    (findings/ort_qnn_silu_in_16_bits.sh).

    types: of the graph before any such change.
    """

    def __init__(self, types: ActivationTypes) -> None:
        self.types = types

    def places(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return of_kind(graph, "Mul")

    def match(self, place: ir.Node) -> _Silu:
        require(self.types.of(place) == WIDE)
        first, second = map(needed, place.inputs)
        for index, gate, value in ((1, first, second), (0, second, first)):
            sigmoid = made_by(unrounded(gate), "Sigmoid")
            if sigmoid is not None and unrounded(first_input(sigmoid)) is unrounded(value):
                return _Silu(place, index)
        raise NoMatch

    def rewrite(self, graph: ir.Graph, found: _Silu) -> None:
        product = found.product
        same = _same(needed(product.inputs[found.index]), f"{product.name}/before")
        graph.insert_before(product, same)
        product.replace_input_with(found.index, same.outputs[0])


def changes_nothing(node: ir.Node) -> bool:
    """Return whether a node is a LeakyRelu with the slope 1."""
    return node.op_type == "LeakyRelu" and node.attributes.get_float("alpha", 0.01) == 1.0


def _same(value: ir.Value, name: str) -> ir.Node:
    same = ir.node("LeakyRelu", [value], {"alpha": 1.0}, name=name)
    same.outputs[0].type, same.outputs[0].shape = value.type, value.shape
    same.outputs[0].name = name
    return same
