#!/usr/bin/env bash
# esp-ppq 1.3.12: a MaxPool or AveragePool without `strides` has a stride of 1 in ONNX. In the
# executor, with which esp-ppq calibrates and judges a network, it has that of its kernel, as in
# torch. What lies behind the pool is calibrated on fewer and other values, or has another shape.
#
# Seen: pools of 3 over 8 columns give 2 columns instead of 6; with `strides=[1, 1]` they are right.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 esp-ppq==1.3.12 onnx==1.19.1 \
    onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnx
import onnxruntime as ort
import torch
from esp_ppq.api import load_onnx_graph
from esp_ppq.executor import TorchExecutor
from onnx import TensorProto, helper

x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype("f4")
for kind in ("MaxPool", "AveragePool"):
    for strides in ({}, {"strides": [1, 1]}):
        node = helper.make_node(kind, ["x"], ["y"], kernel_shape=[3, 3], **strides)
        shapes = (("x", [1, 3, 8, 8]), ("y", [1, 3, 6, 6]))
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
        graph = helper.make_graph([node], "net", ports[:1], ports[1:])
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, "net.onnx")
        session = ort.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
        wanted = session.run(None, {"x": x})[0]
        executor = TorchExecutor(load_onnx_graph("net.onnx"), device="cpu")
        found = executor(torch.tensor(x))[0].numpy()
        given = strides or "no strides"
        print(f"{kind}, {given}: {wanted.shape} in ONNX Runtime, {found.shape} here")
        if strides:
            assert np.allclose(found, wanted, atol=1e-5)
        else:
            assert found.shape == (1, 3, 2, 2), "that changed"
            assert np.allclose(found, wanted[:, :, ::3, ::3], atol=1e-5)
PY
