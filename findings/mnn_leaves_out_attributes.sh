#!/usr/bin/env bash
# MNN 3.6.1: converted files compute as if some attributes were other ones. A ScatterND or
# ScatterElements that adds overwrites; a bicubic GridSample is bilinear, and one that reflects at
# the border repeats it; Mod with fmod=1 has the sign of the divisor; Shrink keeps what lies between
# -lambd and 0 and drops what lies below; a ConvTranspose with output_shape is shifted by a pixel.
# A PRelu with a slope per column takes the first ones for its channels. Nothing is said.
#
# Seen: each file is valid, and MNN gives exactly the values named above.
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


rng = np.random.default_rng(0)
x = rng.normal(size=[1, 3, 8, 8]).astype("f4")
slopes = np.linspace(0, 1, 8, dtype="f4")
grid = rng.uniform(-1.4, 1.4, size=[1, 8, 8, 2]).astype("f4")
to_first = {"i": np.zeros([1, 1], "i8"), "u": np.ones([1, 3, 8, 8], "f4")}
to_second = {"i": np.ones([1, 3, 8, 1], "i8"), "u": np.ones([1, 3, 8, 1], "f4")}


def one(kind, constants, settings, shape=x.shape):
    """Return the network of one node, its inputs `x` and `constants`."""
    node = helper.make_node(kind, ["x", *constants], ["y"], **settings)
    return network([node], x, shape, constants, 16)


def without(kind, constants, settings):
    return by_ort(one(kind, constants, settings), x)


CASES = (
    ("ScatterND", to_first, {"reduction": "add"}, without("ScatterND", to_first, {})),
    ("ScatterElements", to_second, {"axis": 3, "reduction": "add"},
     without("ScatterElements", to_second, {"axis": 3})),
    ("GridSample", {"g": grid}, {"mode": "bicubic"}, without("GridSample", {"g": grid}, {})),
    ("GridSample", {"g": grid}, {"padding_mode": "reflection"},
     without("GridSample", {"g": grid}, {"padding_mode": "border"})),
    ("Mod", {"m": np.float32(2)}, {"fmod": 1}, x - 2 * np.floor(x / 2)),
    ("Shrink", {}, {"lambd": 0.5}, np.where((x > -0.5) & (x < 0), x, np.where(x > 0.5, x, 0))),
    ("PRelu", {"s": slopes}, {}, np.where(x < 0, x * slopes[:3].reshape(3, 1, 1), x)),
)
for kind, constants, settings, other in CASES:
    model = one(kind, constants, settings)
    wanted, seen = by_ort(model, x), by_mnn(model, x)
    apart = float(np.abs(seen - wanted).max())
    print(f"{kind} {settings}: {apart:.2f} apart, largest {np.abs(wanted).max():.2f}")
    assert apart > 0.5 and np.allclose(seen, other, atol=1e-5), "that changed"

filters = {"w": rng.normal(size=[3, 2, 3, 3]).astype("f4")}
settings = {"strides": [2, 2], "output_shape": [16, 16]}
model = one("ConvTranspose", filters, settings, [1, 2, 16, 16])
wanted, seen = by_ort(model, x), by_mnn(model, x)
print(f"ConvTranspose {settings}: {np.abs(seen - wanted).max():.2f} apart, shifted by one pixel")
assert np.abs(seen - wanted).max() > 1, "that changed"
assert np.allclose(seen[:, :, 1:, 1:], wanted[:, :, :-1, :-1], atol=1e-4), "that changed"
PY
