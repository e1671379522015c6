#!/usr/bin/env bash
# onnxruntime 1.31.1: since opset 23 the scale of a QuantizeLinear may have another type than its
# input, as in FP16 networks with FP32 scales. Such a file loads, and fails at its first run, for
# FP16 input with an FP32 scale as for FP32 input with an FP16 scale, with and without
# optimizations. DequantizeLinear with an output_dtype other than its scale's type is right, and so
# is QuantizeLinear with `precision`. onnx's reference and OpenVINO run all of them.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
import openvino as ov
from onnx import TensorProto, checker, helper, numpy_helper, save
from onnx.reference import ReferenceEvaluator

F16, F32 = TensorProto.FLOAT16, TensorProto.FLOAT
TYPES = {F16: np.float16, F32: np.float32}
node = helper.make_node


def outcome(given, quantize, dequantize, returned, **precision):
    """How ONNX Runtime does with a pair of these types of input, scales and output."""
    nodes = [
        node("QuantizeLinear", ["x", "qs", "z"], ["q"], **precision),
        node("DequantizeLinear", ["q", "ds", "z"], ["y"], output_dtype=returned),
    ]
    constants = [
        numpy_helper.from_array(TYPES[quantize](0.25), "qs"),
        numpy_helper.from_array(TYPES[dequantize](0.25), "ds"),
        helper.make_tensor("z", TensorProto.INT8, [], [0]),
    ]
    ports = [
        helper.make_tensor_value_info("x", given, [8]),
        helper.make_tensor_value_info("y", returned, [8]),
    ]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    checker.check_model(model, full_check=True)
    x = np.linspace(-3, 4, 8).astype(TYPES[given])
    save(model, "net.onnx")
    others = [
        ReferenceEvaluator(model).run(None, {"x": x})[0],
        ov.Core().compile_model("net.onnx", "CPU")({"x": x})[0],
    ]
    assert all(np.array_equal(found, x) for found in others)
    said = []
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        session = ort.InferenceSession("net.onnx", settings, providers=["CPUExecutionProvider"])
        try:
            assert np.array_equal(session.run(None, {"x": x})[0], x)
            said.append("right")
        except Exception as error:
            assert "while running QuantizeLinear node" in str(error)
            said.append("fails at its first run")
    assert len(set(said)) == 1
    return said[0]


cases = {
    "FP16 input, FP32 scale": outcome(F16, F32, F32, F32),
    "FP32 input, FP16 scale": outcome(F32, F16, F32, F32),
    "FP16 input and scale, FP32 scale of the DQ, FP16 output": outcome(F16, F16, F32, F16),
    "FP32 input and scale, FP16 scale of the DQ, FP32 output": outcome(F32, F32, F16, F32),
    "FP32 input and scale, precision FP16": outcome(F32, F32, F32, F32, precision=F16),
}
for what, said in cases.items():
    print(f"{what}: {said}")
assert list(cases.values()) == ["fails at its first run"] * 2 + ["right"] * 3, "that changed"
PY
