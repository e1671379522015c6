#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93 (cv2.dnn): auto_pad=SAME_LOWER puts the odd row and column of
# padding after the image, as SAME_UPPER does, where ONNX wants it in front. Convolutions and pools
# whose padding is odd (even kernels, or strides that do not divide) come out moved by one pixel.
# The shape is right, and nothing is said.
#
# Seen: SAME_LOWER gives the same bits as SAME_UPPER for Conv, MaxPool and AveragePool with a kernel
# of 2 and of 4; ONNX Runtime's differ by as much as the largest value.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 \
    opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import cv2
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper

rng = np.random.default_rng(0)
x = rng.normal(size=(1, 4, 7, 7)).astype("f4")
weights = {size: rng.normal(size=(4, 4, size, size)).astype("f4") for size in (2, 3, 4)}


def made(kind, size, padding):
    is_pool = kind != "Conv"
    attributes = {"kernel_shape": [size, size]} if is_pool else {}
    node = helper.make_node(
        kind, ["x"] if is_pool else ["x", "w"], ["y"], auto_pad=padding, strides=[2, 2], **attributes
    )
    shapes = (("x", [1, 4, 7, 7]), ("y", [1, 4, 4, 4]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
    stored = [] if is_pool else [numpy_helper.from_array(weights[size], "w")]
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], stored)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


def in_onnxruntime(content):
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def in_opencv(content):
    network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
    network.setInput(x, "x")
    return network.forward()


for kind in ("Conv", "MaxPool", "AveragePool"):
    for size in (2, 3, 4):
        upper, lower = (made(kind, size, f"SAME_{end}") for end in ("UPPER", "LOWER"))
        wanted = in_onnxruntime(lower)
        apart = float(np.abs(in_opencv(lower) - wanted).max() / np.abs(wanted).max())
        same = bool((in_opencv(lower) == in_opencv(upper)).all())
        print(f"{kind} of {size}: {apart:.2f} of the largest value; the same as SAME_UPPER: {same}")
        assert np.allclose(in_opencv(upper), in_onnxruntime(upper), atol=1e-4)
        assert same
        assert apart < 1e-4 if size == 3 else apart > 0.3, "that changed"
PY
