"""Computes what does not depend on the input once, at export: shapes, sizes, anchors."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import match_or_none, needed, require
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.walk import input_at, made_by, of_kind, size_of


class FoldConstants(ir.passes.InPlacePass):
    """Folds constants and known shapes, but not the Q and DQ of weights.

    ONNX Runtime changes layouts wrongly if the graph computes the sizes of a Resize, and TensorRT
    requires constant ones in some places.
    """

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
    """Replace Gather(Shape(x), index) by a number if that size of x is known, even if the batch
    axis is free."""
    for gather in of_kind(graph, "Gather"):
        size = match_or_none(_known_size, gather)
        if size is not None:
            output = gather.outputs[0]
            known = add(graph, f"{output.name}.known", np.array(size, np.int64))
            output.replace_all_uses_with(known, replace_graph_outputs=True)


def _known_size(gather: ir.Node) -> int:
    """Return the size that the node takes out of a shape.

    Raises NoMatch if it is free, or there are several.
    """
    measured = needed(made_by(gather.inputs[0], "Shape"))
    index = needed(qdq.constant(gather.inputs[1]))
    # A Shape with attributes starts at another axis, and an index with axes takes several sizes.
    require(not measured.attributes)
    require(index.ndim == 0)
    value = needed(input_at(measured, 0))
    return needed(size_of(value, int(index)))
