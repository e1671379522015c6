#!/usr/bin/env bash
# onnxslim 0.1.98: its fusion of Conv and Mul takes the weight for a constant, and raises a
# TypeError where the weight comes from a Q/DQ pair: any quantized convolution that a constant
# per-channel Mul follows (a folded normalization, a layer scale). The same network without pairs
# is slimmed, and so is an Add behind the convolution.
#
# Seen: TypeError "'NoneType' object is not subscriptable" for the pair with Mul alone.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxslim==0.1.98 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxslim
from onnx import TensorProto, checker, helper, numpy_helper

rng = np.random.default_rng(0)


def says(operation, with_pair):
    constants = {
        "w": rng.normal(size=(4, 3, 3, 3)).astype("f4"), "m": np.ones((1, 4, 1, 1), "f4") * 2,
        "s": np.full(4, 0.03, "f4"), "z": np.zeros(4, "i1"),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["wq"], axis=0),
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"], axis=0),
        helper.make_node("Conv", ["x", "wd" if with_pair else "w"], ["c"], pads=[1] * 4),
        helper.make_node(operation, ["c", "m"], ["y"]),
    ]
    if not with_pair:
        del nodes[:2], constants["s"], constants["z"]
    shapes = (("x", [1, 3, 8, 8]), ("y", [1, 4, 8, 8]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    try:
        onnxslim.slim(model)
    except TypeError as error:
        return f"TypeError: {error}"
    return "slimmed"


for operation, pair in (("Mul", False), ("Add", True), ("Mul", True)):
    said = says(operation, pair)
    print(f"{operation} behind a convolution {'with' if pair else 'without'} a weight pair: {said}")
    falls = operation == "Mul" and pair
    assert said == ("TypeError: 'NoneType' object is not subscriptable" if falls else "slimmed")
PY
