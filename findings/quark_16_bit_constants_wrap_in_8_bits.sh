#!/usr/bin/env bash
# amd-quark 0.13: convert_u16u8_to_u8u8, which makes activations of uint16 those of uint8, also
# converts stored uint16 constants, and subtracts their zero point in uint16. Codes below it wrap
# around to large ones, so that every negative constant becomes the largest value of its range.
# What is left is cut off instead of rounded.
#
# Seen: of the constants -1, -0.5, 0, 0.3 and 1 the two negative ones become +1.
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
from quark.onnx.tools.convert_u16u8_to_u8u8 import convert_u16u8_to_u8u8

wanted = np.array([-1, -0.5, 0, 0.3, 1], "f4")
scale, zero = np.float32(2 / 65535), np.uint16(32768)
codes = np.clip(np.round(wanted / scale) + int(zero), 0, 65535).astype("u2")
constants = {"c": codes, "cs": scale, "cz": zero, "s": scale, "z": zero}
nodes = [
    helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
    helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
    helper.make_node("DequantizeLinear", ["c", "cs", "cz"], ["e"]),
    helper.make_node("Add", ["d", "e"], ["y"]),
]
ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [5]) for name in "xy"]
stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
made = convert_u16u8_to_u8u8(ModelProto.FromString(model.SerializeToString()))
found = []
for file in (model, made):
    checker.check_model(file, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = file.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found.append(session.run(None, {"x": np.zeros(5, "f4")})[0])
    print("constants as the file gives them:", found[-1].round(3).tolist())
assert np.allclose(found[0], wanted, atol=1e-4)
assert np.allclose(found[1][2:], wanted[2:], atol=0.01)
assert (found[1][:2] > 0.99).all(), "that changed"
PY
