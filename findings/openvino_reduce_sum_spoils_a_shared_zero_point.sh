#!/usr/bin/env bash
# openvino 2026.4.1: ReduceSum between two Q/DQ pairs goes wrong where both pairs read their zero
# point from one tensor of the file, as tools that merge equal constants leave it: the pair behind
# subtracts its zero point as many times as values are summed. The same numbers in two tensors are
# right, and so is ReduceMean. Nothing is said.
#
# Seen: with scale 0.25 and zero point 128 behind, a sum of 25 values is too low by 24 x 32, one of
# 4 values by 3 x 32, and as much too high with int8 and -128; right with a tensor for each pair.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.31.1 \
    numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
import openvino
from onnx import TensorProto, checker, helper, numpy_helper

core = openvino.Core()
x = np.random.default_rng(0).normal(size=(1, 4, 5, 5)).astype("f4")
node = helper.make_node
STEP, WIDE = np.float32(0.03), np.float32(0.25)


def apart(operator, axes, zero, shared):
    """Mean difference between OpenVINO and ONNX Runtime without optimizations."""
    constants = {"s": STEP, "t": WIDE, "z": zero, "zb": zero, "axes": np.array(axes)}
    options = {} if operator == "ReduceSum" else {"axes": axes}
    read = ["d", "axes"] if operator == "ReduceSum" else ["d"]
    behind = "z" if shared else "zb"
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node(operator, read, ["c"], **options),
        node("QuantizeLinear", ["c", "t", behind], ["r"]),
        node("DequantizeLinear", ["r", "t", behind], ["y"]),
    ]
    reduced = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    shapes = (("x", x.shape), ("y", reduced))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes]
    read_anywhere = {name for one in nodes for name in one.input}
    stored = [
        numpy_helper.from_array(np.asarray(v), name)
        for name, v in constants.items() if name in read_anywhere
    ]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    found = core.compile_model(core.read_model(content), "CPU", settings)([x])[0]
    return float(np.mean(found - session.run(None, {"x": x})[0]))


for zero in (np.uint8(128), np.int8(-128)):
    for axes, count in (([2, 3], 25), ([1], 4)):
        shared, apiece, mean = (
            apart(operator, axes, zero, is_shared)
            for operator, is_shared in (
                ("ReduceSum", True), ("ReduceSum", False), ("ReduceMean", True)
            )
        )
        print(f"{count} values, zero point {zero}: off by {shared:.1f} with one tensor for both,"
              f" {apiece:.1f} with a tensor each; ReduceMean {mean:.1f}")
        assert abs(apiece) < WIDE and abs(mean) < WIDE
        wanted = -(count - 1) * float(WIDE) * float(zero)
        assert abs(shared - wanted) < WIDE, "that changed"
PY
