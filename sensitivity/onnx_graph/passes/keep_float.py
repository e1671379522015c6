"""Float weights that stay float in ONNX Runtime."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph.integer_layers import integer_layers
from sensitivity.onnx_graph.passes.copy_of import copy_of


class KeepFloat(ir.passes.InPlacePass):
    """Put a Sum of one value between a layer with a float weight and the Q behind it, where ONNX
    Runtime would quantize the weight again."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for layer in list(integer_layers(model.graph)):
            if layer.weight is not None:
                continue
            (quantize,) = layer.output.consumers()
            same = copy_of(layer.output, "float", named=layer.node.name)
            model.graph.insert_before(quantize, same)
            quantize.replace_input_with(0, same.outputs[0])
            modified = True
        return ir.passes.PassResult(model, modified=modified)
