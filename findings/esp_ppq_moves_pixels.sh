#!/usr/bin/env bash
# esp-ppq 1.3.12: three operations that move pixels move them elsewhere in the executor, with which
# esp-ppq calibrates and judges a network. SpaceToDepth gives the channels in torch's order, all
# places of the first channel before those of the second, where ONNX has all channels of the first
# place. A ConvTranspose takes the `pads` of its rows for its columns and the other way around. A
# nearest Resize always takes the pixels that torch's interpolate takes.
#
# Seen: SpaceToDepth of 3 channels has the right values in other channels, that of one is right;
# pads of 1 row and 2 columns give 5 x 5 pixels instead of 7 x 3, and a Conv has them right; a
# Resize from 10 to 6 columns with ONNX's defaults takes 4 other pixels, and is right with
# `asymmetric` and `floor`.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 esp-ppq==1.3.12 onnx==1.19.1 \
    onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnx
import onnxruntime as ort
import torch
from esp_ppq.api import load_onnx_graph
from esp_ppq.executor import TorchExecutor
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)


def both(kind, shape, wanted_shape, inputs=("x",), stored=None, **attributes):
    """What ONNX Runtime gives for one node, and esp-ppq's executor."""
    node = helper.make_node(kind, inputs, ["y"], **attributes)
    shapes = (("x", shape), ("y", wanted_shape))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
    constants = [numpy_helper.from_array(v, name) for name, v in (stored or {}).items()]
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    x = rng.normal(size=shape).astype("f4")
    session = ort.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"x": x})[0]
    executor = TorchExecutor(load_onnx_graph("net.onnx"), device="cpu")
    return wanted, executor(torch.tensor(x))[0].numpy()


for channels in (1, 3):
    shapes = [1, channels, 4, 4], [1, channels * 4, 2, 2]
    wanted, found = both("SpaceToDepth", *shapes, blocksize=2)
    same = np.allclose(wanted, found)
    print(f"SpaceToDepth of {channels} channels: {'right' if same else 'other channels'}")
    assert same == (channels == 1), "that changed"
    order = np.arange(channels * 4).reshape(channels, 4).T.ravel()
    assert np.allclose(wanted, found[:, order]), "that changed"

sizes = {"kernel_shape": [3, 3], "strides": [3, 2]}
weights = {"w": rng.normal(size=(1, 2, 3, 3)).astype("f4")}
for pads, rows, columns in (([1, 1, 1, 1], 7, 5), ([1, 2, 1, 2], 7, 3)):
    shapes = [1, 1, 3, 3], [1, 2, rows, columns]
    wanted, found = both("ConvTranspose", *shapes, ("x", "w"), weights, pads=pads, **sizes)
    print(f"ConvTranspose with pads {pads}: {wanted.shape} in ONNX Runtime, {found.shape} here")
    assert found.shape[2:] == ((7, 5) if pads[1] == 1 else (5, 5)), "that changed"
weights = {"w": rng.normal(size=(2, 1, 3, 3)).astype("f4")}
shapes = [1, 1, 8, 8], [1, 2, 3, 5]
wanted, found = both("Conv", *shapes, ("x", "w"), weights, pads=[1, 2, 1, 2], **sizes)
assert np.allclose(wanted, found, atol=1e-5)

scales = {"scales": np.array([1, 1, 1, 0.6], "f4")}
floor = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
for settings in (floor, {}, {"nearest_mode": "ceil"}):
    shapes = [1, 1, 1, 10], [1, 1, 1, 6]
    wanted, found = both("Resize", *shapes, ("x", "", "scales"), scales, **settings)
    print(f"Resize, {settings or 'defaults'}: {int((wanted != found).sum())} of 6 other pixels")
    assert (wanted == found).all() == (settings is floor), "that changed"
PY
