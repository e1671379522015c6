#!/usr/bin/env bash
# openvino 2026.4.1: AveragePool with count_include_pad=1 between two Q/DQ pairs is run on the
# codes, and the padding enters the average as code 0 instead of as the value 0, which is the code
# of the zero point. PyTorch's AvgPool2d exports count_include_pad=1, and Inception's branches are
# such pools.
#
# Seen: without padding, and with zero point 0, the CPU agrees with ONNX Runtime to a step; with
# padding and zero point 128 it is wrong by more than its largest value along the border.
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

x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype("f4")


def apart(zero, padding):
    constants = {"s": np.float32(0.03), "z": np.uint8(zero)}
    pool = {"kernel_shape": [3, 3], "pads": [padding] * 4, "count_include_pad": 1}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("AveragePool", ["d"], ["p"], **pool),
        helper.make_node("QuantizeLinear", ["p", "s", "z"], ["pq"]),
        helper.make_node("DequantizeLinear", ["pq", "s", "z"], ["y"]),
    ]
    shapes = (("x", [1, 3, 8, 8]), ("y", [1, 3, 6 + 2 * padding, 6 + 2 * padding]))
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
    compiled = ov.Core().compile_model("net.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return float(np.abs(compiled({"x": x})[0] - theirs).max() / np.abs(theirs).max())


found = {(z, p): apart(z, p) for z, p in ((0, 1), (128, 0), (128, 1))}
for (zero, padding), far in found.items():
    print(f"zero point {zero}, padding {padding}: relative difference {far:.2f}")
assert found[0, 1] < 0.06 and found[128, 0] < 0.06
assert found[128, 1] > 1, "the padding is the value 0 now"
PY
