"""The float model in FP16, which a quantized engine has to beat on a GPU."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from onnxruntime.transformers.float16 import convert_float_to_float16

from sensitivity.errors import ExportError
from sensitivity.exporters.example import Example
from sensitivity.exporters.verification import LoweringCheck
from sensitivity.exporters.verify_lowering import check_lowering
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph.load import load_model

NAME = "model.fp16.onnx"


def half_baseline(unquantized: Path, example: Example) -> LoweringCheck | str:
    """Write model.fp16.onnx beside the float file and compare the two on the example batch.

    Returns the check, or the reason why there is no such file if FP16 cannot hold the model's
    values.
    """
    out = unquantized.with_name(NAME)
    try:
        half_file(unquantized, out)
        return check_lowering(unquantized, out, unquantized, example)
    except ExportError as error:
        out.unlink(missing_ok=True)
        return f"left out, so there is no FP16 baseline: {error}"


def half_file(unquantized: Path, out: Path) -> Path:
    """Write the graph with FP16 weights and values. Inputs and outputs stay FP32.

    Operations that ONNX defines for FP32 only stay FP32. The opset is unchanged, so that every
    TensorRT from 8.6 on can read the file. Raises ExportError.
    """
    try:
        proto: onnx.ModelProto = convert_float_to_float16(
            ir.to_proto(load_model(unquantized)), keep_io_types=True
        )
    except Exception as error:  # the converter raises what its helpers raise
        raise ExportError(
            f"Expected {unquantized.name} to be convertible to FP16, got: {error}."
        ) from error
    onnx.helper.set_model_props(
        proto,
        {entry.key: entry.value for entry in proto.metadata_props}
        | {"sensitivity.lowered": "fp16"},
    )
    return save(proto, out)
