"""Names the operation of each layer after the layer, so that engines and reports use the user's
names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx_ir as ir

from sensitivity.onnx_graph.marks import all_marks

_Operation = tuple[str, ir.Node]
"""A layer and an operation that one of its quantizers reaches."""


class NameNodes(ir.passes.InPlacePass):
    """Gives the one operation behind each `Quantizer` mark the name of the quantizer's layer.

    A layer that is called again is named `layer_1`, `layer_2`, ... Operations after quantizers of
    several layers, and of layers that quantize for several operations, keep the exporter's names.
    So does an operation that shares only one of a layer's quantizers, such as the Add of a
    shortcut.

    layers: name of a quantizer -> name of its layer.
    """

    def __init__(self, layers: Mapping[str, str]) -> None:
        self.layers = layers

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        named = _names(self._reached(model.graph))
        for node, name in named.items():
            node.name = name
        return ir.passes.PassResult(model, modified=bool(named))

    def _reached(self, graph: ir.Graph) -> Counter[_Operation]:
        """Return (layer, operation) -> number of the layer's quantizers that reach this operation
        alone."""
        reached: Counter[_Operation] = Counter()
        for mark in all_marks(graph.all_nodes(), "Quantizer"):
            layer = self.layers.get(mark.attributes.get_string("name"))
            operations = _operations(mark)
            if layer and len(operations) == 1:
                reached[layer, operations[0]] += 1
        return reached


def _names(reached: Mapping[_Operation, int]) -> dict[ir.Node, str]:
    """Return operation -> its name, for the operations that most of a layer's quantizers reach, in
    their order."""
    most: Counter[str] = Counter()
    for (layer, _), count in reached.items():
        most[layer] = max(count, most[layer])
    named: dict[ir.Node, str] = {}
    taken: Counter[str] = Counter()
    for (layer, operation), count in reached.items():
        if operation not in named and count == most[layer]:
            named[operation] = f"{layer}_{taken[layer]}" if taken[layer] else layer
            taken[layer] += 1
    return named


def _operations(mark: ir.Node) -> list[ir.Node]:
    """Return the operations that use the quantized value. A weight reaches its MatMul through a
    Transpose."""
    operations: list[ir.Node] = []
    for user in mark.outputs[0].consumers():
        operations += user.outputs[0].consumers() if user.op_type == "Transpose" else [user]
    return operations
