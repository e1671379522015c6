#!/usr/bin/env bash
# openvino 2026.4.1: a MatMul whose int8 weight has its scales along the axis that is summed over
# (axis 0 of [inputs, outputs]) gives wrong values on the CPU, also where the number of scales
# differs from the number of outputs. The file is valid, and ONNX Runtime without optimizations
# computes it.
#
# Seen: exact with a scale per output, wrong by a large part of the largest value with a scale per
# input.
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
weight = rng.integers(-127, 128, size=(8, 6)).astype("i1")
x = rng.normal(size=(4, 8)).astype("f4")


def apart(axis):
    scale = np.linspace(0.01, 0.05, weight.shape[axis], dtype="f4")
    constants = {"w": weight, "s": scale}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=axis),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    shapes = (("x", [4, 8]), ("y", [4, 6]))
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
    by_hand = x @ (weight * (scale[:, None] if axis == 0 else scale))
    np.testing.assert_allclose(theirs, by_hand, rtol=1e-4, atol=1e-4)
    compiled = ov.Core().compile_model("net.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return float(np.abs(compiled({"x": x})[0] - theirs).max() / np.abs(theirs).max())


inputs, outputs = apart(0), apart(1)
print(f"relative difference: {outputs:.1e} with a scale per output, {inputs:.2f} per input")
assert outputs < 1e-5
assert inputs > 0.2, "scales per input are right now"
PY
