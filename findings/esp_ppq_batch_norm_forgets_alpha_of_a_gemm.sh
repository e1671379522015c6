#!/usr/bin/env bash
# esp-ppq 1.3.12: a BatchNormalization behind a Gemm is folded into its weight and bias when a file
# is loaded. The new bias is computed as if alpha and beta were 1, and both are applied to it
# afterwards all the same. The float network is wrong before anything is quantized.
#
# Seen: with alpha 0.5 and beta 2 the loaded network is off by 0.7 of its largest output; with 1 and
# 1, or without the BatchNormalization, it is right.
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
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
x = random.normal(size=(4, 6)).astype("f4")
constants = {
    "w": random.normal(size=(6, 5)), "b": random.normal(size=5), "scale": random.normal(size=5),
    "shift": random.normal(size=5), "mean": random.normal(size=5),
    "var": random.uniform(0.3, 2, 5),
}
stored = [numpy_helper.from_array(value.astype("f4"), name) for name, value in constants.items()]


def error(alpha, beta, normalized):
    """Largest difference between ONNX Runtime and esp-ppq, of the largest output."""
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"], alpha=alpha, beta=beta)]
    if normalized:
        inputs = ["h", "scale", "shift", "mean", "var"]
        nodes += [helper.make_node("BatchNormalization", inputs, ["y"])]
    else:
        nodes += [helper.make_node("Relu", ["h"], ["y"])]
    shapes = (("x", [4, 6]), ("y", [4, 5]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
    used = stored if normalized else stored[:2]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], used)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    session = ort.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"x": x})[0]
    executor = TorchExecutor(load_onnx_graph("net.onnx"), device="cpu")
    found = executor(torch.tensor(x))[0].numpy()
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


for alpha, beta, normalized in ((1.0, 1.0, True), (0.5, 2.0, False), (0.5, 2.0, True)):
    found = error(alpha, beta, normalized)
    behind = "a BatchNormalization" if normalized else "a ReLU"
    print(f"Gemm with alpha {alpha} and beta {beta}, {behind} behind it: off by {found:.3f}")
    wrong = normalized and alpha != 1
    assert found > 0.1 if wrong else found < 1e-5, "that changed"
PY
