"""Weights stored as INT8, in the place of FP32 and a Q node."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.insert_qdq import to_levels


class Int8Weights(ir.passes.InPlacePass):
    """FP32 initializer -> Q -> DQ becomes INT8 initializer -> DQ: the same levels, whatever type
    the rest computes in."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for pair in list(qdq.pairs(model.graph)):
            found = qdq.quantized_constant(pair)
            if found is None:
                continue
            weight, scale, zero_point = found
            ends = np.iinfo(zero_point.dtype)
            levels = to_levels(weight, scale, zero_point, pair.axis, (ends.min, ends.max))
            stored = levels.astype(zero_point.dtype)
            pair.dequantize.replace_input_with(
                0, add(model.graph, f"{pair.source.name}.int8", stored)
            )
            modified = True
        return ir.passes.PassResult(model, modified=modified)
