"""Take the marks of layers out of the graph, and name nodes after layers."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph.marks import ModuleOutput, add_module_outputs, is_mark, remove
from sensitivity.onnx_graph.walk import first_input


class TakeMarks(ir.passes.InPlacePass):
    """Remove every `Output` mark; its module is remembered with the value
    (`marks.module_outputs`)."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        marks = [node for node in model.graph.all_nodes() if is_mark(node, "Output")]
        for node in marks:
            module, call = node.attributes.get_string("module"), node.attributes.get_int("call")
            add_module_outputs(first_input(node), (ModuleOutput(module, call),))
            remove(node)
        return ir.passes.PassResult(model, modified=bool(marks))
