#!/usr/bin/env bash
# onnxruntime 1.31.1: where both operands of a MatMul are quantized and the weight's scales lie
# along the axis that is summed over (axis 0 of [inputs, outputs]), the default optimizations fuse
# it into an integer MatMul, which cannot have such scales. The file is valid and loads; its first
# run fails. Without optimizations it runs.
#
# Seen: a RuntimeException of MatMulIntegerToFloat or QLinearMatMul with scales per input, none
# per output.
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
x = rng.normal(size=(4, 8)).astype("f4")
weight = rng.integers(-127, 128, size=(8, 6)).astype("i1")


def made(axis, with_output_pair):
    size = weight.shape[axis]
    constants = {
        "w": weight, "ws": np.linspace(0.01, 0.05, size, dtype="f4"), "wz": np.zeros(size, "i1"),
        "s": np.float32(0.05), "z": np.uint8(128),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=axis),
        helper.make_node("MatMul", ["xd", "wd"], ["m" if with_output_pair else "y"]),
    ]
    if with_output_pair:
        nodes.append(helper.make_node("QuantizeLinear", ["m", "s", "z"], ["mq"]))
        nodes.append(helper.make_node("DequantizeLinear", ["mq", "s", "z"], ["y"]))
    shapes = (("x", [4, 8]), ("y", [4, 6]))
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


for axis, pair in ((1, False), (1, True), (0, False), (0, True)):
    model = made(axis, pair)
    run(model, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    try:
        run(model, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
        said = "runs"
    except Exception as error:
        said = str(error).split("Name:")[0].split("running ")[-1]
    print(f"scales along axis {axis}, output pair {pair}: {said}")
    fused = "QLinearMatMul node. " if pair else "MatMulIntegerToFloat node. "
    assert said == ("runs" if axis == 1 else fused), "that changed"
PY
