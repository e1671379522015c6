"""Activations that ONNX Runtime can move a DQ behind, from opset 21 on."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph.integer_layers import moved_int8
from sensitivity.onnx_graph.passes.unsigned import UnsignedActivations


class MovableInt8(ir.passes.InPlacePass):
    """Turn int8 activations into uint8 on the same grid in files that ONNX Runtime else cannot
    load."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if not any(moved_int8(model)):
            return ir.passes.PassResult(model, modified=False)
        return UnsignedActivations(zero_point_0=False)(model)
