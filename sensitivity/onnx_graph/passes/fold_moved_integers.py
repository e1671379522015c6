"""Folds stored integers and the moves before their DQ into one constant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import RewriteInTurn, needed, require
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.lift_dequantize import moved_places, remove_dead
from sensitivity.onnx_graph.walk import inputs, of_kind, producer, value_name

Array = NDArray[np.generic]


class FoldMovedIntegers(ir.passes.InPlacePass):
    """Turns INT8 initializer -> Reshape -> DQ into INT8 initializer -> DQ, with the channels or
    blocks that the DQ states."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = _ReadFolded(model.opset_imports.get("", 1))(model).modified
        if modified:
            remove_dead(model.graph)
        return ir.passes.PassResult(model, modified=modified)


@dataclass(frozen=True, eq=False)
class _Levels:
    """A DQ that reads moved constants.

    name: name of the value that it reads.
    values: the integers of that value.
    """

    dequantize: ir.Node
    name: str
    values: Array


class _ReadFolded(RewriteInTurn[ir.Node, _Levels]):
    """Lets each DQ read one constant instead of moved ones."""

    def __init__(self, opset: int) -> None:
        self._opset = opset

    def places(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return of_kind(graph.all_nodes(), "DequantizeLinear")

    def match(self, place: ir.Node) -> _Levels:
        levels = needed(place.inputs[0])
        require(qdq.constant(levels) is None)
        return _Levels(place, value_name(levels), self._folded(levels))

    def rewrite(self, graph: ir.Graph, found: _Levels) -> None:
        constant = add(graph, f"{found.name}_moved", found.values)
        found.dequantize.replace_input_with(0, constant)

    def _folded(self, value: ir.Value) -> Array:
        """Return the array of a value that is computed by moves of constants. Raises NoMatch for
        any other."""
        array = qdq.constant(value)
        if array is not None:
            return array
        node = needed(producer(value))
        require(moved_places(node))
        require(len(node.outputs) == 1)
        read = {value_name(given): self._folded(given) for given in inputs(node)}
        return _computed(node, read, self._opset)


def _computed(node: ir.Node, read: Mapping[str, Array], opset: int) -> Array:
    """Return the output of the operation.

    read: its inputs by name.
    """
    names = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in read]
    output = onnx.helper.make_value_info(node.outputs[0].name, onnx.TypeProto())
    graph = onnx.helper.make_graph([ir.to_proto(node)], "moved", names, [output])
    imports = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=imports)
    (moved,) = ReferenceEvaluator(model).run(None, dict(read))
    return np.asarray(moved)
