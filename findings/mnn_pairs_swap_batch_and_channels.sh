#!/usr/bin/env bash
# MNN 3.6.1: a QuantizeLinear and DequantizeLinear with one scale, on a value of four axes. The
# converted file gives batch and channels in each other's place, so one image of three channels
# comes out as three images of one. With a zero point of uint8 every value is 128 steps too low as
# well. The converter says nothing.
#
# Seen: shape [3, 1, 4, 4] for [1, 3, 4, 4]; [3, 3, 2, 2] keeps its shape and is transposed. int8
# values are right but for that; all uint8 values are 3.84 too low at a scale of 0.03.
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


SCALE = np.float32(0.03)
rng = np.random.default_rng(0)
for shape in ([1, 1, 4, 4], [1, 3, 4, 4], [3, 3, 2, 2]):
    for zero in (np.int8(0), np.int8(7), np.uint8(100)):
        x = (rng.integers(-20, 20, size=shape) * SCALE).astype("f4")
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ]
        model = network(nodes, x, shape, {"s": SCALE, "z": zero}, 17)
        wanted, seen = by_ort(model, x), by_mnn(model, x)
        assert np.allclose(wanted, x, atol=1e-5)
        turned = wanted.transpose(1, 0, 2, 3)
        assert seen.shape == turned.shape, "that changed"
        steps = np.unique(np.round((seen - turned) / SCALE)).tolist()
        told = f"shape {list(seen.shape)} for {shape}, off by {steps} steps behind a transpose"
        print(f"{zero.dtype} {zero}: {told}")
        assert steps == [-128 if zero.dtype == np.uint8 else 0], "that changed"
        assert shape != [3, 3, 2, 2] or not np.allclose(seen, wanted, atol=0.01), "that changed"
PY
