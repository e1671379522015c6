#!/usr/bin/env bash
# MNN 3.6.1: ReduceL1, ReduceL2, ReduceLogSum, ReduceLogSumExp and ReduceSumSquare. Since opset 18
# their axes are an input, which the converter does not read for these five: the whole tensor,
# batch included, becomes one number. Below, the axes count, but keepdims, 1 unless the file says
# otherwise, is taken for 0. Nothing is said.
#
# Seen: over the last two axes of [1, 3, 8, 8], shape [] at opset 18 and [1, 3] at opset 17 for
# [1, 3, 1, 1]. ReduceMean and ReduceMax are right.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet MNN==3.6.1 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
from MNN import expr, nn
from onnx import TensorProto, checker, helper, numpy_helper

CONVERT = "import sys, MNN, _tools; _tools.mnnconvert(sys.argv)"


def network(nodes, x, shape, constants, opset):
    sizes = (("x", x.shape), ("y", shape))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in sizes]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model


def by_ort(model, x):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def by_mnn(model, x):
    onnx.save(model, "net.onnx")
    files = ["--modelFile", "net.onnx", "--MNNModel", "net.mnn", "--bizCode", "net"]
    command = [sys.executable, "-c", CONVERT, "-f", "ONNX", *files]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    loaded = nn.load_module_from_file("net.mnn", ["x"], ["y"])
    y = loaded.forward(expr.const(x, list(x.shape), expr.NCHW, expr.float))
    if y.data_format == expr.NC4HW4:
        y = expr.convert(y, expr.NCHW)
    return np.array(y.read()).reshape(y.shape)


x = np.random.default_rng(0).uniform(0.5, 2, size=[1, 3, 8, 8]).astype("f4")
KINDS = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")
for kind in (*KINDS, "ReduceMean", "ReduceMax"):
    told = []
    for opset in (17, 18):
        axes = np.array([2, 3])
        inputs, settings = (["x", "a"], {}) if opset == 18 else (["x"], {"axes": axes})
        node = helper.make_node(kind, inputs, ["y"], **settings)
        constants = {"a": axes} if opset == 18 else {}
        model = network([node], x, [1, 3, 1, 1], constants, opset)
        wanted, seen = by_ort(model, x), by_mnn(model, x)
        told.append(seen.shape)
        if kind not in KINDS:
            assert seen.shape == wanted.shape and np.allclose(seen, wanted, rtol=1e-4)
        elif opset == 17:
            assert seen.shape == (1, 3), "that changed"
            assert np.allclose(seen, wanted[:, :, 0, 0], rtol=1e-4)
        else:
            whole = helper.make_node(kind, ["x"], ["y"], keepdims=0)
            whole = by_ort(network([whole], x, [], {}, 18), x)
            assert seen.shape == (), "that changed"
            assert np.allclose(seen, whole, rtol=1e-4), "that changed"
    print(f"{kind}: shapes {told} at opset 17 and 18, {wanted.shape} wanted")
PY
