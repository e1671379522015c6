#!/usr/bin/env bash
# amd-quark 0.13: convert_bias_int32_to_int16 keeps the scale of a bias and clips its codes to 16
# bits. A bias has the scale of the input times that of the weight, so 32767 codes are little: with
# 0.02 and 0.005 every bias above 3.3 is cut off there, without a word.
#
# Seen: biases of 1, -3, 8 and -20 become 1, -3, 3.28 and -3.28.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 amd-quark==0.13 onnx==1.22.0 \
    onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper
from quark.onnx.tools.convert_bias_int32_to_int16 import convert_bias_int32_to_int16

wanted = np.array([1, -3, 8, -20], "f4")
x_scale, w_scale = np.float32(0.02), np.float32(0.005)
b_scale = np.float32(x_scale * w_scale)
constants = {
    "xs": x_scale, "xz": np.uint8(128),
    "w": np.ones((4, 3, 1, 1), "i1"), "ws": w_scale, "wz": np.int8(0),
    "b": np.round(wanted / b_scale).astype("i4"), "bs": b_scale, "bz": np.int32(0),
}
nodes = [
    helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
    helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["dx"]),
    helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["dw"]),
    helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["db"]),
    helper.make_node("Conv", ["dx", "dw", "db"], ["y"]),
]
shapes = (("x", [1, 3, 2, 2]), ("y", [1, 4, 2, 2]))
ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
made, changed = convert_bias_int32_to_int16(ModelProto.FromString(model.SerializeToString()))
assert changed
found = []
for file in (model, made):
    checker.check_model(file, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = file.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found.append(session.run(None, {"x": np.zeros((1, 3, 2, 2), "f4")})[0][0, :, 0, 0])
    print("outputs for an input of zeros, which are the biases:", found[-1].round(2).tolist())
assert np.allclose(found[0], wanted, atol=1e-3)
assert np.allclose(found[1], np.clip(wanted, -3.2768, 3.2768), atol=1e-3), "that changed"
PY
