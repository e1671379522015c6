"""Compute what does not depend on the input once, at export: shapes, sizes, anchors."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


class FoldConstants(ir.passes.InPlacePass):
    """Fold constants and known shapes; Q and DQ of weights stay. ONNX Runtime moves layouts wrongly where the sizes of
    a Resize are computed in the graph, and TensorRT takes constant ones only in places."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        from onnxscript import optimizer  # comes with the PyTorch exporters

        shaped = common.ShapeInferencePass()(model).modified
        folded = optimizer.fold_constants(model).modified
        return ir.passes.PassResult(model, modified=bool(shaped or folded))
