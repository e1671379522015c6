#!/usr/bin/env bash
# esp-ppq 1.3.12: the executor, with which esp-ppq calibrates and judges a network, leaves out
# attributes. `epsilon` of InstanceNormalization is read as `eps`, so it is always 0.00001; `start`
# and `end` of Shape, which torch.onnx.export writes, are not read; an ArgMax without `axis` is of
# everything instead of the first axis. Nothing is said; the files are valid.
#
# Seen: an epsilon of 0.1 has no effect, so values of 0.1 come out four times as large; a Shape
# from 1 to 2 gives all three lengths; an ArgMax of 3 x 4 x 5 gives one number.
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

x = 0.1 * np.random.default_rng(0).normal(size=(3, 4, 5)).astype("f4")


def outputs(kind, type_of_y, shape, weights=0, **attributes):
    """What ONNX Runtime and esp-ppq compute of one node; its weights are ones."""
    names = [f"ones_{number}" for number in range(weights)]
    node = helper.make_node(kind, ["x", *names], ["y"], **attributes)
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape)),
        helper.make_tensor_value_info("y", type_of_y, shape),
    ]
    stored = [numpy_helper.from_array(np.ones(4, "f4"), name) for name in names]
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    session = ort.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    executor = TorchExecutor(load_onnx_graph("net.onnx"), device="cpu")
    return session.run(None, {"x": x})[0], executor(torch.tensor(x))[0].numpy()


for epsilon in (1e-5, 0.1):
    wanted, found = outputs(
        "InstanceNormalization", TensorProto.FLOAT, [3, 4, 5], weights=2, epsilon=epsilon
    )
    ratio = float((found - 1).std() / (wanted - 1).std())
    print(f"InstanceNormalization with epsilon {epsilon}: {ratio:.2f} times what it should be")
    assert abs(ratio - 1) < 1e-3 if epsilon < 1e-3 else ratio > 2, "that changed"
wanted, found = outputs("Shape", TensorProto.INT64, [1], start=1, end=2)
print(f"Shape from 1 to 2: {wanted.tolist()} in ONNX Runtime, {found.tolist()} here")
assert wanted.tolist() == [4] and found.tolist() == [3, 4, 5], "that changed"
wanted, found = outputs("ArgMax", TensorProto.INT64, [1, 4, 5])
print(f"ArgMax: {wanted.shape} in ONNX Runtime, {found.shape} here")
assert wanted.shape == (1, 4, 5) and found.size == 1, "that changed"
PY
