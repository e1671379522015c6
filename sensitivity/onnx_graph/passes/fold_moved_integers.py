"""Stored integers that are moved in front of their DQ, as one constant in the order that the DQ
reads."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.lift_dequantize import moved_places, remove_dead
from sensitivity.onnx_graph.walk import inputs, producer


class FoldMovedIntegers(ir.passes.InPlacePass):
    """INT8 initializer -> Reshape -> DQ becomes INT8 initializer -> DQ, with the channels or blocks
    that the DQ names."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.opset_imports.get("", 1)
        nodes = list(model.graph.all_nodes())
        dequantizes = [node for node in nodes if node.op_type == "DequantizeLinear"]
        changed = [_read_folded(model.graph, node, opset) for node in dequantizes]
        if any(changed):
            remove_dead(model.graph)
        return ir.passes.PassResult(model, modified=any(changed))


def _read_folded(graph: ir.Graph, dequantize: ir.Node, opset: int) -> bool:
    """Let a DQ read one constant in place of moved ones; False where it reads no such."""
    levels = dequantize.inputs[0]
    if levels is None or qdq.constant(levels) is not None:
        return False
    values = _folded(levels, opset)
    if values is None:
        return False
    dequantize.replace_input_with(0, add(graph, f"{levels.name}_moved", values))
    return True


def _folded(value: ir.Value | None, opset: int) -> NDArray[np.generic] | None:
    """What a value is that is moved out of constants; None for any other."""
    array, node = qdq.constant(value), producer(value)
    if array is not None or node is None:
        return array
    if not moved_places(node) or len(node.outputs) > 1:
        return None
    read = {}
    for given in inputs(node):
        folded = _folded(given, opset)
        if folded is None:
            return None
        read[given.name] = folded
    names = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in read]
    output = onnx.helper.make_value_info(node.outputs[0].name, onnx.TypeProto())
    graph = onnx.helper.make_graph([ir.to_proto(node)], "moved", names, [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    (moved,) = ReferenceEvaluator(model).run(None, read)
    return np.asarray(moved)
