#!/usr/bin/env bash
# MNN 3.6.1: the converter knows two roundings of a nearest Resize, down and to the nearest. It
# takes nearest_mode "ceil" and "round_prefer_ceil" for one of the others, so pixels move. A cubic
# Resize with half_pixel, the default, computes the first row and the first column otherwise.
# Nothing is said.
#
# Seen: enlarging by two with "ceil" or "round_prefer_ceil" gives the pixels of round_prefer_floor
# and 68% of them are wrong; of the cubic one 12%, all in row 0 or column 0. Nearest with "floor"
# and round_prefer_floor, linear, and cubic with asymmetric are right.
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


CASES = (
    ("nearest", "asymmetric", "floor", "right"),
    ("nearest", "asymmetric", "round_prefer_floor", "right"),
    ("nearest", "asymmetric", "ceil", "moved"),
    ("nearest", "asymmetric", "round_prefer_ceil", "moved"),
    ("nearest", "half_pixel", "ceil", "moved"),
    ("linear", "half_pixel", "floor", "right"),
    ("cubic", "asymmetric", "floor", "right"),
    ("cubic", "half_pixel", "floor", "first"),
)
x = np.random.default_rng(0).normal(size=[1, 3, 8, 8]).astype("f4")


def resize(mode, place, rounding):
    settings = {"coordinate_transformation_mode": place, "nearest_mode": rounding}
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], mode=mode, **settings)
    return network([node], x, [1, 3, 16, 16], {"s": np.array([1, 1, 2, 2], "f4")}, 17)


for mode, place, rounding, kind in CASES:
    model = resize(mode, place, rounding)
    wanted, seen = by_ort(model, x), by_mnn(model, x)
    wrong = np.abs(seen - wanted) > 1e-4
    print(f"{mode}, {place}, {rounding}: {wrong.mean():.0%} of the pixels are wrong")
    if kind == "right":
        assert not wrong.any()
    elif kind == "moved":
        floor = by_ort(resize(mode, place, "round_prefer_floor"), x)
        assert wrong.mean() > 0.5 and np.array_equal(seen, floor), "that changed"
    else:
        assert wrong[:, :, 0].all() and wrong[:, :, :, 0].all(), "that changed"
        assert not wrong[:, :, 1:, 1:].any(), "that changed"
PY
