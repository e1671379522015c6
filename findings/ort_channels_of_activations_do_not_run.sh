#!/usr/bin/env bash
# onnxruntime 1.31.1: a pair with scales per channel on an activation is valid ONNX, and runs
# without optimizations. The default ones fuse it into integer operators that take one scale for an
# activation, without looking at how many there are: such a file does not load, or fails at its
# first run. Gemm looks, and stays in float; what only moves values runs as well.
#
# Seen: errors with such a pair in front of Conv, MatMul, Add, Mul, AveragePool, GlobalAveragePool,
# Sigmoid and Concat, and behind a Conv; the right values for Relu, MaxPool, Transpose and Gemm.
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
node = helper.make_node
IMAGE = [1, 4, 4, 4]
CONSTANTS = {
    "cs": np.array([0.01, 0.02, 0.05, 0.1], "f4"), "cz": np.array([0, 100, 128, 255], "u1"),
    "s": np.float32(0.05), "z": np.uint8(128), "ws": np.float32(0.01), "wz": np.int8(0),
    "filters": rng.integers(-127, 128, size=[4, 4, 1, 1]).astype("i1"),
    "matrix": rng.integers(-127, 128, size=[4, 4]).astype("i1"),
}


def pair(value, end, channels):
    scale, zero, options = ("cs", "cz", {"axis": 1}) if channels else ("s", "z", {})
    return [
        node("QuantizeLinear", [value, scale, zero], [end + "_q"], **options),
        node("DequantizeLinear", [end + "_q", scale, zero], [end], **options),
    ]


def outcome(operator, reads=("d",), weight=None, shape=IMAGE, behind=False, **options):
    """"right", or when it fails."""
    nodes = pair("x", "d", not behind) + pair("x", "e", False)
    if weight:
        nodes.append(node("DequantizeLinear", [weight, "ws", "wz"], ["w"]))
    nodes += [node(operator, reads, ["c"], **options), *pair("c", "y", behind)]
    read = {name for one in nodes for name in one.input}
    stored = [numpy_helper.from_array(np.asarray(v), k) for k, v in CONSTANTS.items() if k in read]
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(shape)),
    ]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    x = rng.normal(size=shape).astype("f4")
    found = []
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        try:
            step = "does not load"
            session = ort.InferenceSession(
                model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
            )
            step = "fails at its first run"
            found.append(session.run(None, {"x": x})[0])
        except Exception as error:
            assert level == "ORT_ENABLE_ALL" and "scalar" in str(error)
            return step
    assert np.abs(found[0] - found[1]).max() < 0.11
    return "is right"


wrong = {
    "Conv": outcome("Conv", ["d", "w"], "filters"),
    "MatMul": outcome("MatMul", ["d", "w"], "matrix", [3, 4]),
    "Add": outcome("Add", ["d", "e"]),
    "Mul": outcome("Mul", ["d", "e"]),
    "AveragePool": outcome("AveragePool", kernel_shape=[2, 2]),
    "GlobalAveragePool": outcome("GlobalAveragePool"),
    "Sigmoid": outcome("Sigmoid"),
    "Concat": outcome("Concat", ["d", "e"], axis=0),
    "Conv with the pair behind it": outcome("Conv", ["d", "w"], "filters", behind=True),
}
right = {
    "Relu": outcome("Relu"),
    "MaxPool": outcome("MaxPool", kernel_shape=[2, 2]),
    "Transpose": outcome("Transpose", perm=[0, 2, 1, 3]),
    "Gemm": outcome("Gemm", ["d", "w"], "matrix", [3, 4]),
}
for operator, said in {**wrong, **right}.items():
    print(f"{operator} {said}")
assert "is right" not in wrong.values() and set(right.values()) == {"is right"}, "that changed"
PY
