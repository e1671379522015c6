#!/usr/bin/env bash
# openvino 2026.4.1: of the operators that quantize_static writes in QOperator format,
# QLinearLeakyRelu and QLinearAveragePool subtract the input's zero point in its own 8-bit type,
# so that every code below it wraps around; and QLinearSigmoid reads int8 codes as if they were
# unsigned. QLinearLeakyRelu with zero point 0, and QLinearSigmoid of uint8, are right.
#
# Seen: at most a code apart where it is right, more than 100 of 255 codes where it is not.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1 \
    numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
import openvino as ov
from onnx import TensorProto, checker, helper, numpy_helper

kinds = {"u1": TensorProto.UINT8, "i1": TensorProto.INT8}


def apart(name, kind, zero, step, size, **attributes):
    low = np.iinfo(kind).min
    x = np.arange(low, low + 256).reshape(1, 4, 8, 8).astype(kind)
    constants = {
        "xs": np.float32(0.02), "xz": np.array(zero, kind),
        "ys": np.float32(step), "yz": np.array(low + 128, kind),
    }
    inputs = ["x", "xs", "xz", "ys", "yz"]
    nodes = [helper.make_node(name, inputs, ["y"], domain="com.microsoft", **attributes)]
    shapes = (("x", [1, 4, 8, 8]), ("y", [1, 4, size, size]))
    ports = [helper.make_tensor_value_info(port, kinds[kind], s) for port, s in shapes]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    checker.check_model(model)
    content = model.SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"x": x})[0].astype(int)
    core = ov.Core()
    compiled = core.compile_model(core.read_model(content), "CPU")
    return int(np.abs(compiled({"x": x})[compiled.output(0)].astype(int) - wanted).max())


leaky = ("QLinearLeakyRelu", 0.02, 8, {"alpha": 0.2})
pool = ("QLinearAveragePool", 0.02, 6, {"kernel_shape": [3, 3]})
sigmoid = ("QLinearSigmoid", 1 / 256, 8, {})
for (name, step, size, attributes), kind, zero, is_right in (
    (leaky, "u1", 0, True), (leaky, "u1", 128, False), (leaky, "i1", -128, False),
    (pool, "u1", 0, True), (pool, "u1", 128, False), (pool, "i1", -128, False),
    (sigmoid, "u1", 128, True), (sigmoid, "i1", 0, False),
):
    codes = apart(name, kind, zero, step, size, **attributes)
    kind_name = TensorProto.DataType.Name(kinds[kind])
    print(f"{name}, {kind_name} with zero point {zero}: {codes} codes apart")
    assert codes <= 1 if is_right else codes > 100, "that changed"
PY
