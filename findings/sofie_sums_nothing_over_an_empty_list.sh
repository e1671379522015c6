#!/usr/bin/env bash
# sofie 0.1.0, CERN's translator from ONNX to C++: a ReduceSum or ReduceMean over an empty list of
# axes is one over all of them, unless noop_with_empty_axes=1. The code that sofie writes takes it
# for the other case, and gives the input back where the rest of the network waits for one number.
# Nothing is said. Without a list it is right.
#
# Seen: over an empty list, the sum and the mean of 2 x 3 numbers are these six numbers; without a
# list, and over the axes 0 and 1, they are 21 and 3.5.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet sofie==0.1.0 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import pathlib
import re
import subprocess

import numpy as np
import onnxruntime as ort
import sofie
from onnx import TensorProto, checker, helper, numpy_helper, save

x = np.arange(1, 7, dtype="f4").reshape(2, 3)
MAIN = """#include "net.hxx"
#include <cstdio>
int main() {
  float x[] = {1, 2, 3, 4, 5, 6};
  NAMESPACE::Session session("net.dat");
  for (float y : session.infer(x)) std::printf("%g ", y);
}
"""


def outputs(kind, axes):
    """What ONNX Runtime gives, and the program that sofie writes."""
    constants = []
    if axes is not None:
        constants.append(numpy_helper.from_array(np.array(axes, "i8"), "axes"))
    node = helper.make_node(kind, ["x", *(c.name for c in constants)], ["y"])
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1]),
    ]
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    checker.check_model(model, full_check=True)
    save(model, "net.onnx")
    session = ort.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    network = sofie.onnx.parse("net.onnx")
    network.generate()
    network.output_generated("net.hxx")
    code = pathlib.Path("net.hxx").read_text()
    name = re.search(r"namespace (\S+) *{", code).group(1)
    pathlib.Path("main.cpp").write_text(MAIN.replace("NAMESPACE", name))
    subprocess.run(["g++", "-std=c++20", "-w", "main.cpp", "-o", "main"], check=True)
    said = subprocess.run(["./main"], check=True, capture_output=True, text=True).stdout
    return session.run(None, {"x": x})[0].ravel().tolist(), [float(y) for y in said.split()]


for kind in ("ReduceSum", "ReduceMean"):
    for axes in ([0, 1], None, []):
        wanted, found = outputs(kind, axes)
        print(f"{kind} over axes {axes}: {wanted} in ONNX Runtime, {found} here")
        assert wanted == [21.0 if kind == "ReduceSum" else 3.5]
        assert found == (x.ravel().tolist() if axes == [] else wanted), "that changed"
PY
