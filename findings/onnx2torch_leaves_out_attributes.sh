#!/usr/bin/env bash
# onnx2torch 1.5.15, which makes torch modules of ONNX files for training and quantizing them,
# leaves out attributes. A CumSum without `reverse` sums from the end to the beginning, where ONNX's
# default is the other direction. `output_shape` of a ConvTranspose is not read, so the output is
# smaller. An IsInf with `detect_negative=0` or `detect_positive=0` finds both infinities. Nothing
# is said.
#
# Seen: 1, 2, 3, 4 sums to 10, 9, 7, 4 instead of 1, 3, 6, 10, and is right with `reverse=0` in the
# file; an `output_shape` of 10 x 8 gives 9 x 7, and as `output_padding` it is right.
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


x = np.array([1, 2, 3, 4], "f4")
wanted, found = both("CumSum", x, [4], np.array(0))
print(f"CumSum: {wanted} in ONNX Runtime, {found} here")
assert found.tolist() == [10, 9, 7, 4], "that changed"
assert same(*both("CumSum", x, [4], np.array(0), reverse=0))

x = rng.normal(size=(1, 2, 3, 3)).astype("f4")
weight = rng.normal(size=(2, 2, 3, 3)).astype("f4")
size = {"kernel_shape": [3, 3], "strides": [3, 2]}
wanted, found = both("ConvTranspose", x, [1, 2, 10, 8], weight, output_shape=[10, 8], **size)
print(f"ConvTranspose: {wanted.shape} in ONNX Runtime, {found.shape} here")
assert found.shape == (1, 2, 9, 7), "that changed"
assert same(*both("ConvTranspose", x, [1, 2, 10, 8], weight, output_padding=[1, 1], **size))

x = np.array([np.inf, -np.inf, 1], "f4")
for attribute in ("detect_negative", "detect_positive"):
    wanted, found = both("IsInf", x, [3], to="BOOL", **{attribute: 0})
    print(f"IsInf, {attribute}=0: {wanted} in ONNX Runtime, {found} here")
    assert found.tolist() == [True, True, False], "that changed"
assert same(*both("IsInf", x, [3], to="BOOL"))
PY
