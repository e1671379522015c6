#!/usr/bin/env bash
# onnx2torch 1.5.15, which makes torch modules of ONNX files for training and quantizing them, takes
# torch's meaning of some operators for that of ONNX. A PRelu whose slope has shape [n] is one slope
# per column in ONNX, and one per channel in torch. A linear Resize of opset 10 begins at the corner
# of a pixel, torch's interpolate at its middle. NonZero gives a column for each place in ONNX, and
# a row in torch. Where the shapes fit, nothing is said.
#
# Seen: PRelu is off by more than 1 where there are as many columns as channels, and right with
# slopes of shape [4, 1, 1]; Resize is off by more than 0.5, and right in opset 11 and later, which
# say where pixels lie; NonZero gives 4 x 2 instead of 2 x 4.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 torchvision==0.28.0 onnx2torch==1.5.15 \
    onnx==1.19.1 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import sys
import types
import warnings

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, checker, helper, numpy_helper

# Wheels of torch and torchvision of different builds do not load together; no operator of
# torchvision is used here, and this module is the one that asks for them.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("unused")
import onnx2torch

rng = np.random.default_rng(0)


def both(kind, x, wanted_shape, *others, opset=13, to="FLOAT", **attributes):
    """What ONNX Runtime gives for one node, and the torch module that onnx2torch makes of it."""
    inputs = ["x", *(f"c{index}" for index in range(len(others)))]
    constants = [numpy_helper.from_array(v, n) for v, n in zip(others, inputs[1:], strict=True)]
    node = helper.make_node(kind, inputs, ["y"], **attributes)
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape),
        helper.make_tensor_value_info("y", getattr(TensorProto, to), wanted_shape),
    ]
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"x": x})[0]
    with warnings.catch_warnings(record=True) as told, torch.no_grad():
        warnings.simplefilter("always")
        module = onnx2torch.convert(model).eval()
        found = module(torch.tensor(x)).numpy()
    assert not [one for one in told if "onnx2torch" in str(one.filename)], "it warns"
    return wanted, found


def same(wanted, found):
    return wanted.shape == found.shape and np.allclose(wanted, found, atol=1e-5)


x = rng.normal(size=(1, 4, 3, 4)).astype("f4")
slope = np.array([0.1, 0.5, 1, 3], "f4")
wanted, found = both("PRelu", x, [1, 4, 3, 4], slope)
error = float(np.abs(wanted - found).max())
print(f"PRelu of a row of slopes: off by {error:.2f}")
assert np.allclose(wanted, np.where(x < 0, x * slope, x), atol=1e-6)
channels = slope.reshape(4, 1, 1)
assert error > 1 and np.allclose(found, np.where(x < 0, x * channels, x)), "that changed"
assert same(*both("PRelu", x, [1, 4, 3, 4], channels))

x = rng.normal(size=(1, 2, 4, 4)).astype("f4")
scales = np.array([1, 1, 2, 2], "f4")
wanted, found = both("Resize", x, [1, 2, 8, 8], scales, opset=10, mode="linear")
error = float(np.abs(wanted - found).max())
print(f"linear Resize of opset 10: off by {error:.2f}")
middle = torch.nn.functional.interpolate(torch.tensor(x), scale_factor=2, mode="bilinear")
assert error > 0.5 and np.allclose(found, middle.numpy(), atol=1e-6), "that changed"
none = np.zeros(0, "f4")
assert same(*both("Resize", x, [1, 2, 8, 8], none, scales, opset=11, mode="linear"))

x = np.array([[0, 1, 0], [2, 0, 3], [4, 0, 0]], "f4")
wanted, found = both("NonZero", x, [2, "places"], to="INT64")
print(f"NonZero: {wanted.shape} in ONNX Runtime, {found.shape} here")
assert np.array_equal(found, wanted.T) and found.shape == (4, 2), "that changed"
PY
