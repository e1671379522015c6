"""Stored integers that are moved in front of their DQ, as one constant in the order that the DQ
reads."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.lift_dequantize import moved_places, remove_dead


class FoldMovedIntegers(ir.passes.InPlacePass):
    """INT8 initializer -> Reshape -> DQ becomes INT8 initializer -> DQ, with the channels or blocks
    that the DQ names."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.opset_imports.get("", 1)
        changed = False
        for node in [
            node for node in model.graph.all_nodes() if node.op_type == "DequantizeLinear"
        ]:
            levels = node.inputs[0]
            values = _folded(levels, opset) if qdq.constant(levels) is None else None
            if levels is not None and values is not None:
                node.replace_input_with(0, add(model.graph, f"{levels.name}_moved", values))
                changed = True
        if changed:
            remove_dead(model.graph)
        return ir.passes.PassResult(model, modified=changed)


def _folded(value: ir.Value | None, opset: int) -> NDArray[np.generic] | None:
    """What a value is that is moved out of constants; None for any other."""
    array = qdq.constant(value)
    node = value.producer() if value is not None else None
    if array is not None or node is None or not moved_places(node) or len(node.outputs) > 1:
        return array
    given = {one.name: _folded(one, opset) for one in node.inputs if one is not None}
    if any(array is None for array in given.values()):
        return None
    from onnx.reference import ReferenceEvaluator

    names = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in given]
    output = onnx.helper.make_value_info(node.outputs[0].name, onnx.TypeProto())
    graph = onnx.helper.make_graph([ir.to_proto(node)], "moved", names, [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    (moved,) = ReferenceEvaluator(model).run(None, given)
    return np.asarray(moved)
