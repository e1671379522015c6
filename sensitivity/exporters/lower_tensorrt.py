"""Lowering for strongly typed TensorRT (11, and 10 with the flag): types in the graph make
everything that is not quantized run in FP16.

The float file lowered in this way is the FP16 baseline. TensorRT 8.6 takes the canonical file with
its own FP16 flag.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx import version_converter

from sensitivity.errors import ExportError
from sensitivity.exporters.ranges import ranges_of
from sensitivity.onnx_graph.passes.half import Half
from sensitivity.onnx_graph.passes.int8_weights import Int8Weights
from sensitivity.onnx_graph.passes.scalar_scales import ScalarScales
from sensitivity.onnx_graph.passes.tidy import tidy

OPSET = 19
"""The first opset with FP16 scales. TensorRT 10 and 11 can read it."""

IR_VERSION = 9


def lower(model: ir.Model) -> ir.Model:
    """Lower the model. Weights become INT8 initializers first, so that FP16 cannot move one to
    another level."""
    passes = ir.passes.Sequential(ScalarScales(), Int8Weights(), tidy())
    converted = _with_opset(passes(model).model)
    return ir.passes.Sequential(Half(ranges_of(converted)), tidy())(converted).model


def _with_opset(model: ir.Model) -> ir.Model:
    proto = ir.to_proto(model)
    try:
        converted = version_converter.convert_version(proto, OPSET)
    except Exception as error:  # the converter's exceptions share no base class
        raise ExportError(
            f"Expected operations that can be moved from opset {model.opset_imports.get('')} to "
            f"{OPSET}, got: {error}."
        ) from error
    converted.ir_version = IR_VERSION
    result: ir.Model = ir.from_proto(converted)
    result.metadata_props.update(model.metadata_props)
    return result
