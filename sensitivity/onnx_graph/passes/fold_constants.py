"""Compute what does not depend on the input once, at export: shapes, sizes, anchors."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add


class FoldConstants(ir.passes.InPlacePass):
    """Fold constants and known shapes; Q and DQ of weights stay. ONNX Runtime moves layouts wrongly
    where the sizes of a Resize are computed in the graph, and TensorRT takes constant ones only in
    places."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        from onnxscript import optimizer  # comes with the PyTorch exporters

        before, nodes = None, len(model.graph)
        while before != nodes:  # constants give shapes, and shapes give constants
            common.ShapeInferencePass()(model)
            _fold_known_sizes(model.graph)
            optimizer.fold_constants(model)
            common.RemoveUnusedNodesPass()(model)
            before, nodes = nodes, len(model.graph)
        return ir.passes.PassResult(model, modified=True)


def _fold_known_sizes(graph: ir.Graph) -> None:
    """Gather(Shape(x), index) is a number where that size of x is known, also while its batch axis
    is free."""
    for node in [node for node in graph if node.op_type == "Gather"]:
        shape = node.inputs[0].producer() if node.inputs[0] is not None else None
        index, given = qdq.constant(node.inputs[1]), shape.inputs[0] if shape is not None else None
        if (
            shape is None
            or shape.op_type != "Shape"
            or shape.attributes
            or index is None
            or index.ndim
        ):
            continue
        size = given.shape[int(index)] if given is not None and given.shape is not None else None
        if isinstance(size, int):
            known = add(graph, f"{node.outputs[0].name}.known", np.array(size, np.int64))
            node.outputs[0].replace_all_uses_with(known, replace_graph_outputs=True)
