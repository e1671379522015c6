#!/usr/bin/env bash
# onnx2pytorch 0.6.0: a Gather whose axis counts from the end (-1, the last) gathers along the first
# axis. An InstanceNormalization whose scale and bias are not stored as such, but come out of other
# nodes, such as the DequantizeLinear of a quantized file, does not normalize in eval mode: it
# multiplies and adds, as with a mean of 0 and a variance of 1. Where the bias alone comes out of a
# node, it is taken for the scale. Nothing is said where the shapes fit.
#
# Seen: rows 2, 0, 1 and 1 of a 4 x 4 tensor instead of these columns; an axis of 1 is right. The
# normalization gives x times scale plus bias, or normalized values times bias; with both stored it
# is right.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 torchvision==0.28.0 onnx2pytorch==0.6.0 \
    onnx==1.19.1 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import sys
import types

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, checker, helper, numpy_helper

# Wheels of torch and torchvision of different builds do not load together; no operator of
# torchvision is used here, and this module is the one that asks for them.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("unused")
from onnx2pytorch import ConvertModel

rng = np.random.default_rng(0)


def both(nodes, x, stored):
    """What ONNX Runtime gives, and the torch module that onnx2pytorch makes of the file."""
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape) for n in ("x", "y")]
    constants = [numpy_helper.from_array(np.asarray(v), name) for name, v in stored.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        found = ConvertModel(model).eval()(torch.tensor(x))
    return session.run(None, {"x": x})[0], found.numpy()


x = rng.normal(size=(4, 4)).astype("f4")
rows = np.array([2, 0, 1, 1])
for axis in (1, -1):
    gather = helper.make_node("Gather", ["x", "rows"], ["y"], axis=axis)
    wanted, found = both([gather], x, {"rows": rows})
    print(f"Gather along axis {axis}: off by {np.abs(wanted - found).max():.2f}")
    assert np.array_equal(wanted, x[:, rows])
    assert np.array_equal(found, x[rows] if axis < 0 else wanted), "that changed"

x = rng.normal(size=(1, 4, 8, 8)).astype("f4") + 3
codes = {"scale": np.array([50, -20, 100, 7], "i1"), "bias": np.array([5, -20, 10, 70], "i1")}
step = np.float32(0.05)
values = {name: (stored * step).astype("f4") for name, stored in codes.items()}
scale, bias = (value.reshape(4, 1, 1) for value in values.values())
normal = (x - x.mean((2, 3), keepdims=True)) / x.std((2, 3), keepdims=True)
norm = helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["y"])
cases = (
    ([], normal * scale + bias),
    (["scale", "bias"], x * scale + bias),
    (["bias"], normal * bias),
)
for computed, seen in cases:
    nodes = [helper.make_node("DequantizeLinear", [f"{n}8", "step"], [n]) for n in computed]
    stored = {name: value for name, value in values.items() if name not in computed}
    stored |= {f"{name}8": codes[name] for name in computed}
    if computed:
        stored["step"] = step
    wanted, found = both([*nodes, norm], x, stored)
    assert np.allclose(wanted, normal * scale + bias, atol=1e-3)
    told = f"off by {np.abs(wanted - found).max():.2f}"
    print(f"InstanceNormalization, {' and '.join(computed) or 'nothing'} computed: {told}")
    assert np.allclose(found, seen, atol=1e-3), "that changed"
PY
