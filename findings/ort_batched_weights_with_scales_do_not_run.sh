#!/usr/bin/env bash
# onnxruntime 1.31.1: a MatMul between pairs whose weight has three axes, [1, inputs, outputs] or a
# matrix for each sample, with a scale per output (the last axis), becomes a QLinearMatMul. For a
# weight of three axes that wants scales of shape [..., 1, outputs], which those of a
# DequantizeLinear never have, and the fusion does not reshape them. The file is valid and loads;
# its first run fails. quantize_static(per_channel=True) writes such files.
#
# Seen: an error of QLinearMatMul with [1, 6, 5] and [3, 6, 5]; right with a weight of two axes,
# with one scale, without a pair behind, and without optimizations.
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
x = rng.normal(size=[3, 4, 6]).astype("f4")


def said(shape, per_output=True, behind=True):
    """"right", or which operator fails."""
    scale = np.array([0.01, 0.02, 0.03, 0.04, 0.05], "f4") if per_output else np.float32(0.02)
    constants = {
        "xs": np.float32(0.03), "ys": np.float32(0.2), "z": np.uint8(128), "ws": scale,
        "w": rng.integers(-127, 128, size=shape).astype("i1"),
    }
    options = {"axis": len(shape) - 1} if per_output else {}
    nodes = [
        node("QuantizeLinear", ["x", "xs", "z"], ["q"]),
        node("DequantizeLinear", ["q", "xs", "z"], ["d"]),
        node("DequantizeLinear", ["w", "ws"], ["dw"], **options),
        node("MatMul", ["d", "dw"], ["c" if behind else "y"]),
    ]
    if behind:
        nodes.append(node("QuantizeLinear", ["c", "ys", "z"], ["p"]))
        nodes.append(node("DequantizeLinear", ["p", "ys", "z"], ["y"]))
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
             for n, s in (("x", [3, 4, 6]), ("y", [3, 4, 5]))]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    found = []
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        content = model.SerializeToString()
        session = ort.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
        try:
            found.append(session.run(None, {"x": x})[0])
        except Exception as error:
            return str(error).split("running ")[-1].split(" node")[0] + " fails"
    assert np.abs(found[0] - found[1]).max() < 0.21
    return "right"


for words, shape, options in (
    ("[6, 5]", [6, 5], {}),
    ("[1, 6, 5], one scale", [1, 6, 5], {"per_output": False}),
    ("[1, 6, 5], no pair behind", [1, 6, 5], {"behind": False}),
    ("[1, 6, 5]", [1, 6, 5], {}),
    ("[3, 6, 5]", [3, 6, 5], {}),
):
    found = said(shape, **options)
    print(f"weight of shape {words}: {found}")
    is_right = len(shape) == 2 or bool(options)
    assert found == ("right" if is_right else "QLinearMatMul fails"), "that changed"
PY
