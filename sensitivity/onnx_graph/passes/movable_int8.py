"""Makes int8 activations loadable in ONNX Runtime, which moves DQs from opset 21 on."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph.integer_layers import moved_int8
from sensitivity.onnx_graph.passes.unsigned import UnsignedActivations


class MovableInt8(ir.passes.InPlacePass):
    """Turns int8 activations into uint8 on the same grid in files that ONNX Runtime could not load
    otherwise."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if not any(moved_int8(model)):
            return ir.passes.PassResult(model, modified=False)
        return UnsignedActivations(zero_point_0=False)(model)
