#!/usr/bin/env bash
# onnxruntime 1.31.1: quantize_static(per_channel=True) of a model of opset 10, 11 or 12 writes a file of that opset with an
# `axis` on DequantizeLinear, an attribute that opset 13 brought. It warns about nothing; the ONNX checker refuses the file.
#
# Seen: per tensor valid at every opset, per channel invalid at 10, 11 and 12 and valid at 13.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static

rng = np.random.default_rng(0)


class Reader(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": rng.normal(size=(8, 3, 8, 8)).astype("f4")}])

    def get_next(self):
        return next(self.batches, None)


def is_valid(opset, per_channel):
    weight = numpy_helper.from_array(rng.normal(size=(4, 3, 3, 3)).astype("f4"), "w")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size, 8, 8]) for name, size in (("x", 3), ("y", 4))]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], "net", ports[:1], ports[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "float.onnx")
    quantize_static("float.onnx", "quantized.onnx", Reader(), per_channel=per_channel)
    try:
        onnx.checker.check_model("quantized.onnx", full_check=True)
    except onnx.checker.ValidationError as error:
        assert "axis" in str(error), error
        return False
    return True


found = {(opset, per_channel): is_valid(opset, per_channel) for opset in (10, 11, 12, 13) for per_channel in (False, True)}
print({f"opset {opset}, {'per channel' if per_channel else 'per tensor'}": valid for (opset, per_channel), valid in found.items()})
assert found == {(opset, per_channel): opset == 13 or not per_channel for opset, per_channel in found}, "that changed"
PY
