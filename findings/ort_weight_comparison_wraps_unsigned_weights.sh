#!/usr/bin/env bash
# onnxruntime 1.31.1: create_weight_matching (quantization.qdq_loss_debug, the tool for finding the
# weights that quantize badly) subtracts the zero point in the weight's own type. With unsigned
# weights (weight_type=QUInt8) everything below the zero point wraps around by 256 steps, and
# compute_weight_error reports a ruined weight where the file is as good as an int8 one.
#
# Seen: 45 dB for int8 weights and for what the uint8 file holds, below 0 dB by the tool.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6 sympy==1.14.0
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnx
from onnx import TensorProto, checker, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, qdq_loss_debug, quantize_static

rng = np.random.default_rng(0)
weight = rng.normal(size=(8, 3, 3, 3)).astype("f4")
nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")]
shapes = (("x", [1, 3, 8, 8]), ("y", [1, 8, 6, 6]))
ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
stored = [numpy_helper.from_array(weight, "w")]
graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
checker.check_model(model, full_check=True)
onnx.save(model, "float.onnx")


class Reader(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": rng.normal(size=(1, 3, 8, 8)).astype("f4")}])

    def get_next(self):
        return next(self.batches, None)


def true_decibels(path):
    stored = {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    codes, zero = stored["w_quantized"].astype("i4"), stored["w_zero_point"].astype("i4")
    error = weight - (codes - zero) * stored["w_scale"]
    return float(20 * np.log10(np.linalg.norm(weight) / np.linalg.norm(error)))


said = {}
for kind in (QuantType.QInt8, QuantType.QUInt8):
    path = f"{kind.name}.onnx"
    types = {"activation_type": QuantType.QUInt8, "weight_type": kind}
    quantize_static("float.onnx", path, Reader(), **types)
    errors = qdq_loss_debug.compute_weight_error(
        qdq_loss_debug.create_weight_matching("float.onnx", path)
    )
    said[kind.name] = errors["w"], true_decibels(path)
    print(f"{kind.name}: {said[kind.name][0]:.1f} dB by the tool, {said[kind.name][1]:.1f} dB true")
assert abs(np.subtract(*said["QInt8"])) < 0.1
assert said["QUInt8"][1] > 30
assert said["QUInt8"][0] < 0, "zero points are subtracted in a wider type now"
PY
