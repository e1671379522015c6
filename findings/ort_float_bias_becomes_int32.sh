#!/usr/bin/env bash
# onnxruntime 1.31.1: while it loads a Q/DQ file whose convolution has a float bias, the CPU provider turns that bias into
# int32 with the scale input x weight. Where a channel's weights are tiny (switched off by BatchNorm, pruned) the quotient
# leaves the range of int32, and the bias is lost without a word.
#
# Seen: a channel whose float bias is 2.0 gives 0.0 with the default optimizations, and 2.0 with all of them off.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper

rng = np.random.default_rng(0)
weight = rng.normal(size=(4, 3, 3, 3)).astype("f4")
weight[0] *= 1e-9
scale = (np.abs(weight).reshape(4, -1).max(1) / 127).astype("f4")
constants = {
    "w": weight, "w_scale": scale, "w_zero": np.zeros(4, "i1"), "bias": np.array([2, -1, -0.8, 1.5], "f4"),
    "x_scale": np.float32(0.02), "x_zero": np.uint8(128), "y_scale": np.float32(0.1), "y_zero": np.uint8(128),
}
nodes = []
for source, parameters, out, more in (("x", "x", "xd", {}), ("w", "w", "wd", {"axis": 0}), ("c", "y", "y", {})):
    if source == "c":
        nodes.append(helper.make_node("Conv", ["xd", "wd", "bias"], ["c"], pads=[1] * 4))
    extra = [f"{parameters}_scale", f"{parameters}_zero"]
    nodes.append(helper.make_node("QuantizeLinear", [source, *extra], [f"{source}_q"], **more))
    nodes.append(helper.make_node("DequantizeLinear", [f"{source}_q", *extra], [out], **more))
ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size, 8, 8]) for name, size in (("x", 3), ("y", 4))]
stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
model = helper.make_model(helper.make_graph(nodes, "net", ports[:1], ports[1:], stored), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
checker.check_model(model, full_check=True)


def first_channel(level):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": rng.normal(size=(1, 3, 8, 8)).astype("f4")})[0][0, 0].mean())


usual = first_channel(ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
plain = first_channel(ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
print(f"channel with a bias of 2.0: {usual:.3f} with the default optimizations, {plain:.3f} without any")
assert abs(plain - 2) < 0.1
assert abs(usual) < 0.1, "the bias is kept now"
PY
