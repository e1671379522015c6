#!/usr/bin/env bash
# openvino 2026.4.1: an embedding table stored as int8 with one scale per column (DequantizeLinear
# axis=1), read by Gather along axis 0, gives wrong rows: the scales are gathered with the row
# numbers as if they lay along axis 0. With one scale per row, the same network is exact.
#
# Seen: exact with scales per row, wrong by most of the largest value with scales per column.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
table = rng.integers(-127, 128, size=(10, 8)).astype("i1")
x = np.ones(1, "f4")


def apart(axis):
    scale = np.linspace(0.01, 0.08, table.shape[axis], dtype="f4")
    constants = {"table": table, "s": scale, "rows": np.array([1, 3, 5, 7])}
    nodes = [
        helper.make_node("DequantizeLinear", ["table", "s"], ["t"], axis=axis),
        helper.make_node("Gather", ["t", "rows"], ["g"]),
        helper.make_node("Mul", ["g", "x"], ["y"]),
    ]
    shapes = (("x", [1]), ("y", [4, 8]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = ort.InferenceSession("net.onnx", options, providers=["CPUExecutionProvider"])
    theirs = plain.run(None, {"x": x})[0]
    by_hand = table[[1, 3, 5, 7]] * (scale[[1, 3, 5, 7], None] if axis == 0 else scale)
    np.testing.assert_allclose(theirs, by_hand, rtol=1e-6)
    compiled = ov.Core().compile_model("net.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return float(np.abs(compiled({"x": x})[0] - theirs).max() / np.abs(theirs).max())


rows, columns = apart(0), apart(1)
print(f"relative difference: {rows:.1e} with scales per row, {columns:.2f} with scales per column")
assert rows < 1e-5
assert columns > 0.3, "scales per column are right now"
PY
