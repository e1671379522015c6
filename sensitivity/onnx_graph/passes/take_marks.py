"""Removes the marks of layers from the graph."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph.marks import ModuleOutput, add_module_outputs, all_marks, remove
from sensitivity.onnx_graph.walk import first_input


class TakeMarks(ir.passes.InPlacePass):
    """Removes every `Output` mark and stores its module with the value (`marks.module_outputs`)."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        marks = all_marks(model.graph.all_nodes(), "Output")
        for mark in marks:
            attributes = mark.attributes
            output = ModuleOutput(attributes.get_string("module"), attributes.get_int("call"))
            add_module_outputs(first_input(mark), (output,))
            remove(mark)
        return ir.passes.PassResult(model, modified=bool(marks))
