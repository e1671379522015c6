#!/usr/bin/env bash
# openvino 2026.4.1 and opencv-python-headless 5.0.0.93 (cv2.dnn): below opset 13 Softmax
# normalizes over all axes from `axis` on, taken as one. Both normalize over `axis` alone, as
# from opset 13 on, whatever the file's opset is: a softmax over [1, 4, 8, 8] at its default axis
# sums to 64 instead of 1. Hardmax is right in OpenVINO. Raising a file's opset by hand turns the
# error around, since the number is read and the meaning is not.
#
# Seen: ONNX Runtime's outputs sum to 1 per image at opset 12; those of the other two sum to 64.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1 \
    opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import cv2
import numpy as np
import onnxruntime as ort
import openvino as ov
from onnx import TensorProto, checker, helper

x = np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype("f4")


def made(opset):
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=1)]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, 8, 8]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:])
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=7)
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


def in_onnxruntime(content):
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def in_openvino(content):
    core = ov.Core()
    compiled = core.compile_model(core.read_model(content), "CPU")
    return compiled({"x": x})[compiled.output(0)]


def in_opencv(content):
    network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
    network.setInput(x, "x")
    return network.forward()


for opset in (12, 13):
    runs = (in_onnxruntime, in_openvino, in_opencv)
    sums = [round(float(run(made(opset)).sum()), 3) for run in runs]
    print(f"opset {opset}: one image's softmax sums to {sums} (ONNX Runtime, OpenVINO, OpenCV)")
    assert sums == ([1, 64, 64] if opset == 12 else [64, 64, 64]), "that changed"
PY
