#!/usr/bin/env bash
# onnxruntime 1.31.1: AveragePool with ceil_mode=1 and count_include_pad=1 between two Q/DQ pairs
# becomes QLinearAveragePool under the default optimizations, and the windows that ceil_mode lets
# reach past the padding are divided by another count than the float AveragePool of the same file
# divides by.
#
# Seen: the same to a step where ceil_mode is 0; with ceil_mode=1 the last row and column differ
# by a third.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper

rng = np.random.default_rng(0)
x = rng.normal(size=(1, 3, 8, 8)).astype("f4")
steps = 0.01


def made(ceil):
    constants = {"s": np.float32(steps), "z": np.uint8(0)}
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "count_include_pad": 1}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("AveragePool", ["d"], ["p"], ceil_mode=ceil, **pool),
        helper.make_node("QuantizeLinear", ["p", "s", "z"], ["pq"]),
        helper.make_node("DequantizeLinear", ["pq", "s", "z"], ["y"]),
    ]
    shapes = (("x", [1, 3, 8, 8]), ("y", [1, 3, 4 + ceil, 4 + ceil]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    checker.check_model(model, full_check=True)
    return model


def run(model, level):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    content = model.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


for ceil in (0, 1):
    model = made(ceil)
    plain = run(model, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    usual = run(model, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    inside = float(np.abs(usual - plain)[..., :4, :4].max() / steps)
    apart = float(np.abs(usual - plain).max() / steps)
    print(f"ceil_mode {ceil}: {inside:.0f} steps apart inside, {apart:.0f} at most")
    print(f"  last column: {plain[0, 0, :, -1].round(2)} plain, {usual[0, 0, :, -1].round(2)} usual")
    assert inside < 1.5
    assert apart > 5 if ceil else apart < 1.5, "that changed"
PY
