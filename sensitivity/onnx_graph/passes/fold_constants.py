"""Compute what does not depend on the input once, at export: shapes, sizes, anchors."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.walk import given, made_by


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
    for gather in [node for node in graph if node.op_type == "Gather"]:
        size = _known_size(gather)
        if size is not None:
            output = gather.outputs[0]
            known = add(graph, f"{output.name}.known", np.array(size, np.int64))
            output.replace_all_uses_with(known, replace_graph_outputs=True)


def _known_size(gather: ir.Node) -> int | None:
    """The size that the node takes out of a shape; None where it is free, or more than one."""
    index = qdq.constant(gather.inputs[1])
    measured = made_by(gather.inputs[0], "Shape")
    if measured is None or index is None:
        return None
    # A Shape with attributes starts at another axis, and an index with axes takes several sizes.
    takes_one_size = not measured.attributes and index.ndim == 0
    value = given(measured, 0)
    if not takes_one_size or value is None or value.shape is None:
        return None
    size = value.shape[int(index)]
    return size if isinstance(size, int) else None
