#!/usr/bin/env bash
# openvino 2026.4.1: a Q/DQ pair of float8e4m3fn or float8e5m2 always saturates on the CPU, also
# where QuantizeLinear says saturate=0 (then overflow must show as NaN or infinity), and a NaN that
# goes in comes out as the most negative value of the type, with either setting. A network that
# has overflowed looks like one that gives -448.
#
# Seen: NaN becomes -448 and -57344; 1e9 with saturate=0 becomes 448 and 57344, where ONNX Runtime
# gives NaN and infinity.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1 \
    numpy==2.4.6 ml_dtypes==0.6.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import ml_dtypes
import numpy as np
import onnxruntime as ort
import openvino as ov
from onnx import TensorProto, checker, helper, numpy_helper

x = np.array([1, 1e9, np.nan], "f4")


def made(kind, saturate):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], saturate=saturate),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [len(x)]) for n in ("x", "y")]
    constants = {"s": np.float32(1), "z": np.zeros((), kind)}
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


for kind, largest in ((ml_dtypes.float8_e4m3fn, 448), (ml_dtypes.float8_e5m2, 57344)):
    for saturate in (1, 0):
        content = made(kind, saturate)
        session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
        (wanted,) = session.run(None, {"x": x})
        core = ov.Core()
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(core.read_model(content), "CPU", options)
        seen = compiled({"x": x})[compiled.output(0)]
        name = kind.__name__
        print(f"{name}, saturate={saturate}: OpenVINO {seen.tolist()}, {wanted.tolist()} wanted")
        assert np.isnan(wanted[2]) and (saturate or not np.isfinite(wanted[1]))
        assert seen.tolist() == [1, largest, -largest], "that changed"
PY
