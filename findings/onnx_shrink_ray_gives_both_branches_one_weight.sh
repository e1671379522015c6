#!/usr/bin/env bash
# onnx-shrink-ray 0.0.11, which shrinks files by storing weights in 8 bits: quantize_weights moves
# the constants of both branches of an If into the graph around it, by name. Two branches may use
# one name for two tensors, as nothing but their own graph sees it; such branches share one of the
# two weights afterwards, also where no weight is large enough to be quantized. Nothing is said.
#
# Seen: with weights named alike, one branch is off by more than its largest value, both quantized
# and not; with two names, both are within 8 bits of the original, or exact.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx-shrink-ray==0.0.11 onnx-graphsurgeon==0.6.1 \
    onnx==1.19.1 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper
from onnx_shrink_ray.shrink import quantize_weights

rng = np.random.default_rng(0)
x = rng.normal(size=(2, 128)).astype("f4")
weights = rng.normal(size=(2, 128, 128)).astype("f4")


def port(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def made(names):
    """An If whose branches multiply by a weight each, with these names."""
    branches = []
    for name, weight, output in zip(names, weights, ("then_y", "else_y"), strict=True):
        node = helper.make_node("MatMul", ["x", name], [output])
        stored = [numpy_helper.from_array(weight, name)]
        branches.append(helper.make_graph([node], output, [], [port(output, x.shape)], stored))
    choice = dict(zip(("then_branch", "else_branch"), branches, strict=True))
    node = helper.make_node("If", ["first"], ["y"], **choice)
    inputs = [port("x", x.shape), port("first", [], TensorProto.BOOL)]
    graph = helper.make_graph([node], "net", inputs, [port("y", x.shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model


def outputs(model):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(None, {"x": x, "first": np.array(first)})[0] for first in (True, False)]


for names in (("a", "b"), ("w", "w")):
    wanted = outputs(made(names))
    assert all(np.allclose(y, x @ w, atol=1e-3) for y, w in zip(wanted, weights, strict=True))
    for settings in ({}, {"min_elements": 10**6}):
        found = outputs(quantize_weights(made(names), **settings))
        pairs = zip(found, wanted, strict=True)
        errors = [float(np.abs(one - other).max() / np.abs(other).max()) for one, other in pairs]
        told = " and ".join(f"{error:.2f}" for error in errors)
        print(f"weights {names}, {settings or 'defaults'}: branches are off by {told}")
        assert min(errors) < 0.03
        assert max(errors) < 0.03 if names[0] != names[1] else max(errors) > 1, "that changed"
PY
