"""For OpenVINO: uint8 activations with zero point 128 on the same grid.

OpenVINO 2024.6 to 2026.4 give wrong values where a Concat feeds a quantizer with int8 and zero point 0; with uint8 and
zero point 128 they are exact.
"""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph.passes.tidy import tidy
from sensitivity.onnx_graph.passes.unsigned import UnsignedActivations


def lower(model: ir.Model) -> ir.Model:
    return ir.passes.Sequential(UnsignedActivations(zero_point_0=False), tidy())(model).model
