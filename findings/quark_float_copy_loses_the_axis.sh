#!/usr/bin/env bash
# amd-quark 0.13: convert_quant_to_float turns stored integer weights into float ones without the
# axis of their DequantizeLinear: the scales are multiplied along the last axis, whichever it says.
# Weights with scales along their first axis (Conv, and Gemm with transB=1, as torch writes a
# Linear) do not convert, with an error of shapes; where both axes have one length they convert,
# and every weight has another column's scale.
#
# Seen: a square MatMul (axis 1) gives the outputs of the Q/DQ file; a square Gemm with transB=1
# (axis 0) is off by 41% of its largest output.
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
from quark.onnx.tools.convert_quant_to_float import convert_quant_to_float

rng = np.random.default_rng(0)
x = rng.normal(size=(4, 6)).astype("f4")
constants = {
    "w": rng.integers(-127, 128, size=(6, 6)).astype("i1"),
    "s": np.linspace(0.005, 0.05, 6).astype("f4"),
    "z": np.zeros(6, "i1"),
}


def outputs(model):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = model.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


for operation, axis, attributes in (("MatMul", 1, {}), ("Gemm", 0, {"transB": 1})):
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=axis),
        helper.make_node(operation, ["x", "d"], ["y"], **attributes),
    ]
    shapes = (("x", [4, 6]), ("y", [4, 6]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    checker.check_model(model, full_check=True)
    scales = constants["s"].reshape((-1, 1) if axis == 0 else (1, -1))
    weight = constants["w"] * scales
    wanted = x @ (weight.T if axis == 0 else weight)
    assert np.allclose(outputs(model), wanted, atol=1e-4)
    made = convert_quant_to_float(ModelProto.FromString(model.SerializeToString()))
    apart = float(np.abs(outputs(made) - wanted).max() / np.abs(wanted).max())
    print(f"{operation}, scales along axis {axis}: {apart:.2f} of the largest output apart")
    assert apart < 1e-5 if axis == 1 else apart > 0.3, "that changed"
PY
