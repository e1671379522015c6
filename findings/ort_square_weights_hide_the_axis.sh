#!/usr/bin/env bash
# onnxruntime 1.31.1: Conv and MatMul between pairs become QLinearConv and QLinearMatMul, which have
# one scale per output and no axis. The fusion drops the axis of the weight's DequantizeLinear.
# Where a weight has scales per input, and as many inputs (of a group) as outputs, the scales are
# taken for those of the outputs, without a word. Where the counts differ, the first run fails.
#
# Seen: a square Conv, a Conv of 8 to 4 channels in 2 groups and a square MatMul are off by a third
# of their largest value or more; with scales per output the same layers are within a step.
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
scales = np.array([0.002, 0.02, 0.005, 0.05], "f4")


def session_of(model, optimize):
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    if not optimize:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = model.SerializeToString()
    return ort.InferenceSession(content, settings, providers=["CPUExecutionProvider"])


def apart(operator, weight_shape, axis, group=1):
    """Largest difference that the optimizations make, in parts of the largest output."""
    conv = operator == "Conv"
    x = rng.normal(size=[1, weight_shape[1] * group, 6, 6] if conv else [5, weight_shape[0]])
    x = x.astype("f4")
    options = {"group": group} if conv else {}
    y_scale = np.float32(0.1)
    constants = {
        "xs": np.float32(0.03), "ys": y_scale, "z": np.uint8(128),
        "w": rng.integers(-127, 128, size=weight_shape).astype("i1"), "ws": scales,
    }
    nodes = [
        node("QuantizeLinear", ["x", "xs", "z"], ["q"]),
        node("DequantizeLinear", ["q", "xs", "z"], ["d"]),
        node("DequantizeLinear", ["w", "ws"], ["dw"], axis=axis),
        node(operator, ["d", "dw"], ["c"], **options),
        node("QuantizeLinear", ["c", "ys", "z"], ["p"]),
        node("DequantizeLinear", ["p", "ys", "z"], ["y"]),
    ]
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * x.ndim),
    ]
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    checker.check_model(model, full_check=True)
    plain, found = (session_of(model, choice).run(None, {"x": x})[0] for choice in (False, True))
    return float(np.abs(plain - found).max() / np.abs(plain).max())


layers = {
    "square Conv": ("Conv", [4, 4, 1, 1], {}, 1),
    "Conv of 8 to 4 channels in 2 groups": ("Conv", [4, 4, 3, 3], {"group": 2}, 1),
    "square MatMul": ("MatMul", [4, 4], {}, 0),
}
for words, (operator, shape, options, per_input) in layers.items():
    right = apart(operator, shape, 1 - per_input, **options)
    wrong = apart(operator, shape, per_input, **options)
    print(f"{words}: {right:.3f} apart with scales per output, {wrong:.2f} with scales per input")
    assert right < 0.02
    assert wrong > 0.3, "the axis counts now"
try:
    apart("Conv", [8, 4, 1, 1], 1)
    said = "runs"
except Exception as error:
    said = str(error).split(" Name:")[0].split(" : ")[-1]
print("Conv of 4 to 8 channels, scales per input:", said)
assert "while running QLinearConv" in said, "that changed"
PY
