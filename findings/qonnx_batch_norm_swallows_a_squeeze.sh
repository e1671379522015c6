#!/usr/bin/env bash
# qonnx 1.0.0: BatchNormToAffine, part of the streamlining of FINN, leaves out an Unsqueeze in front
# of a BatchNormalization and a Squeeze behind it, whatever their axes, and each also without the
# other. That is right for what torch.nn.BatchNorm1d was once exported as, a last axis of 1. Where
# another axis is added, the factors of the channels are multiplied along the axis after them, and
# nothing is said if the sizes fit. Where only one of the two is there, the output has another
# shape.
#
# Seen: between an Unsqueeze and a Squeeze of the first axis, values are off by more than 1; with a
# Squeeze alone, an output of [4, 4] becomes [1, 4, 4]; alone, and between two of the last axis, a
# BatchNormalization is exact.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet qonnx==1.0.0 onnx==1.19.1 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.batchnorm_to_affine import BatchNormToAffine
from qonnx.transformation.infer_shapes import InferShapes

rng = np.random.default_rng(0)
stored = {"first": np.array([0]), "last": np.array([2])}
stored |= {name: rng.normal(size=4).astype("f4") for name in ("scale", "bias", "mean")}
stored["variance"] = rng.uniform(0.5, 2, 4).astype("f4")
constants = [numpy_helper.from_array(values, name) for name, values in stored.items()]


def both(shape, wanted_shape, axis, *kinds):
    """What ONNX Runtime gives for a chain of nodes, and qonnx after BatchNormToAffine."""
    names = ["x", *(f"t{index}" for index in range(1, len(kinds))), "y"]
    nodes = []
    for index, kind in enumerate(kinds):
        others = list(stored)[2:] if kind == "BatchNormalization" else [axis]
        nodes.append(helper.make_node(kind, [names[index], *others], [names[index + 1]]))
    shapes = (("x", shape), ("y", wanted_shape))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    x = rng.normal(size=shape).astype("f4")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    network = ModelWrapper(model).transform(InferShapes())
    affine = network.transform(BatchNormToAffine())
    assert [node.op_type for node in affine.graph.node][-2:] == ["Mul", "Add"]
    return session.run(None, {"x": x})[0], execute_onnx(affine, {"x": x})["y"]


norm = "BatchNormalization"
cases = (
    ([4, 4], [4, 4], "last", ("Unsqueeze", norm, "Squeeze"), True),
    ([1, 4, 4], [1, 4, 4], "first", (norm,), True),
    ([4, 4], [4, 4], "first", ("Unsqueeze", norm, "Squeeze"), False),
    ([1, 4, 4], [4, 4], "first", (norm, "Squeeze"), False),
)
for shape, wanted_shape, axis, kinds, right in cases:
    wanted, found = both(shape, wanted_shape, axis, *kinds)
    assert list(wanted.shape) == wanted_shape
    error = float(np.abs(found.ravel() - wanted.ravel()).max())
    told = f"{wanted.shape} in ONNX Runtime, {found.shape} here, values off by {error:.2f}"
    print(f"{' '.join(kinds)}, {axis} axis: {told}")
    if right:
        assert found.shape == wanted.shape and error < 1e-5
    elif len(kinds) == 3:
        assert found.shape == wanted.shape and error > 1, "that changed"
    else:
        assert found.shape == (1, 4, 4), "that changed"
PY
