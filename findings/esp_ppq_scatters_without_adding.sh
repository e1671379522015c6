#!/usr/bin/env bash
# esp-ppq 1.3.12: the executor, with which esp-ppq calibrates and judges a network, computes four
# operators in a form of its own. A ScatterND or ScatterElements that adds, multiplies or takes the
# larger value overwrites instead, so what pools points or edges into cells keeps one of them. A
# ReverseSequence whose time is the first axis reverses the batch. A Max or Min of one input, which
# is that input, becomes one number. A ReduceSum over an empty list of axes sums everything, also
# with noop_with_empty_axes=1. Nothing is said; the files are valid.
#
# Seen: five ones added into three cells give 1, 1, 0 instead of 3, 2, 0; a ReverseSequence of 4 x 4
# has other values, and is right with the batch first; Max of 1, 3, 2 is 3, and of two inputs it is
# right; ReduceSum gives 6.
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


def outputs(kind, x, *stored, **attributes):
    """What ONNX Runtime and esp-ppq compute of one node, whose other inputs are constants."""
    names = [f"c{number}" for number in range(len(stored))]
    node = helper.make_node(kind, ["x", *names], ["y"], **attributes)
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * x.ndim),
    ]
    constants = [numpy_helper.from_array(c, n) for c, n in zip(stored, names, strict=True)]
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    session = ort.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    executor = TorchExecutor(load_onnx_graph("net.onnx"), device="cpu")
    return session.run(None, {"x": x})[0], executor(torch.tensor(x))[0].numpy()


def shown(title, wanted, found):
    print(f"{title}: {wanted.tolist()} in ONNX Runtime, {found.tolist()} here")


cells, ones = np.array([0, 0, 0, 1, 1]), np.ones(5, "f4")
for kind, indices in (("ScatterND", cells[:, None]), ("ScatterElements", cells)):
    wanted, found = outputs(kind, np.zeros(3, "f4"), indices, ones, reduction="add")
    shown(f"{kind} that adds", wanted, found)
    assert wanted.tolist() == [3, 2, 0] and found.tolist() == [1, 1, 0], "that changed"

x = np.arange(16, dtype="f4").reshape(4, 4)
for time, lengths in ((0, [4, 3, 2, 1]), (1, [1, 2, 3, 4])):
    axes = {"time_axis": time, "batch_axis": 1 - time}
    wanted, found = outputs("ReverseSequence", x, np.array(lengths), **axes)
    shown(f"ReverseSequence, {axes}", wanted, found)
    assert np.array_equal(wanted, found) == (time == 1), "that changed"

x = np.array([1, 3, 2], "f4")
wanted, found = outputs("Max", x)
shown("Max of one input", wanted, found)
assert wanted.tolist() == [1, 3, 2] and found.tolist() == 3, "that changed"
wanted, found = outputs("Max", x, np.float32([2, 2, 2]))
assert wanted.tolist() == found.tolist() == [2, 3, 2]
wanted, found = outputs("ReduceSum", x, np.array([], "i8"), noop_with_empty_axes=1)
shown("ReduceSum with noop_with_empty_axes=1", wanted, found)
assert wanted.tolist() == [1, 3, 2] and found.tolist() == [6], "that changed"
PY
