"""Float weights that stay float in ONNX Runtime."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph.integer_layers import integer_layers


class KeepFloat(ir.passes.InPlacePass):
    """Put a Sum of one value between a layer with a float weight and the Q behind it, where ONNX
    Runtime would quantize the weight again. It costs one copy of the output; ONNX Runtime takes
    Identity and its like out before it looks."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for layer in list(integer_layers(model.graph)):
            if layer.weight is not None:
                continue
            (quantize,) = layer.output.consumers()
            same = ir.node(
                "Sum", [layer.output], name=f"{layer.node.name or layer.output.name}/float"
            )
            same.outputs[0].name = f"{layer.output.name}.float"
            same.outputs[0].type, same.outputs[0].shape = layer.output.type, layer.output.shape
            model.graph.insert_before(quantize, same)
            quantize.replace_input_with(0, same.outputs[0])
            modified = True
        return ir.passes.PassResult(model, modified=modified)
