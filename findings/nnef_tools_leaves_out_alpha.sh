#!/usr/bin/env bash
# nnef-tools 1.0.11: converting an ONNX file to NNEF leaves out the `alpha` of an Elu and the
# `alpha` and `gamma` of a Selu. A Softmax that gives no axis, which is the last one since opset 13,
# becomes one over axis 1. Back from NNEF, every Softmax is written in opset 11, where it normalizes
# over all axes from the given one on: one over the channels of an image comes back as one over
# everything. Nothing is said.
#
# Seen: graph.nnef has elu(x) and selu(x), and softmax over axes [1] for axis 2. Of a Softmax over 3
# channels of 2 x 2 pixels, each channel sums to 1 in each pixel before, and all of them together
# after. What these attributes do not touch comes back exact.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet nnef-tools==1.0.11 nnef==1.0.10 onnx==1.19.1 \
    onnxruntime==1.31.1 numpy==2.4.6 six==1.17.0 future==1.0.0
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

rng = np.random.default_rng(0)


def converted(source, to, target):
    options = ["--input-model", source, "--output-model", target, "--output-format", to]
    options += ["--input-format", "nnef" if to == "onnx" else "onnx", "--keep-io-names"]
    command = [sys.executable, "-m", "nnef_tools.convert", *options]
    subprocess.run(command, check=True, capture_output=True)


def outputs(path, x):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def both_ways(kind, shape, **attributes):
    """A node's outputs, those of the file that comes back from NNEF, and its line in NNEF."""
    node = helper.make_node(kind, ["x"], ["y"], **attributes)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph([node], "net", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    converted("net.onnx", "nnef", "net.nnef")
    converted("net.nnef", "onnx", "back.onnx")
    lines = Path("net.nnef/graph.nnef").read_text().splitlines()
    (line,) = [text.strip() for text in lines if text.strip().startswith("y =")]
    x = rng.normal(size=shape).astype("f4")
    return outputs("net.onnx", x), outputs("back.onnx", x), line


cases = (
    ("LeakyRelu", {"alpha": 0.3}, "alpha = 0.3", True),
    ("Elu", {}, "elu(x)", True),
    ("Elu", {"alpha": 0.3}, "elu(x)", False),
    ("Selu", {"alpha": 0.3, "gamma": 2.0}, "selu(x)", False),
    ("Softmax", {"axis": 2}, "axes = [2]", True),
    ("Softmax", {}, "axes = [1]", False),
)
for kind, attributes, text, right in cases:
    wanted, found, line = both_ways(kind, [3, 4, 5], **attributes)
    error = float(np.abs(wanted - found).max())
    print(f"{kind} {attributes}: {line} and back, off by {error:.2f}")
    assert text in line, "that changed"
    assert error < 1e-5 if right else error > 0.1, "that changed"
wanted, found, line = both_ways("Softmax", [1, 3, 2, 2], axis=1)
sums = [float(values.sum(1).mean()) for values in (wanted, found)]
print(f"Softmax over 3 channels: {line}; sum of a pixel {sums[0]:.2f}, and back {sums[1]:.2f}")
assert abs(sums[0] - 1) < 1e-5 and abs(sums[1] - 0.25) < 1e-5, "that changed"
PY
