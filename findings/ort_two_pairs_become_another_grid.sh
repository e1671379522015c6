#!/usr/bin/env bash
# onnxruntime 1.31.1: where one Q/DQ pair directly feeds another of the same step and another zero point (what is left when
# a Reshape or Identity between two quantized operations is folded away), the default optimizations merge the two into one
# pair on a third grid. The values that come out are on neither of the grids that were calibrated.
#
# Seen: scales 0.02 and 0.02, zero points 0 and 10: nearly a step of difference from the file without optimizations, and
# values that are no multiple of 0.02.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper

constants = [numpy_helper.from_array(np.float32(0.02), "scale"), numpy_helper.from_array(np.int8(0), "zero"), numpy_helper.from_array(np.int8(10), "ten")]
nodes = [
    helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["a"]),
    helper.make_node("DequantizeLinear", ["a", "scale", "zero"], ["b"]),
    helper.make_node("QuantizeLinear", ["b", "scale", "ten"], ["c"]),
    helper.make_node("DequantizeLinear", ["c", "scale", "ten"], ["y"]),
]
ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1000]) for name in ("x", "y")]
model = helper.make_model(helper.make_graph(nodes, "net", ports[:1], ports[1:], constants), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
checker.check_model(model, full_check=True)
x = np.linspace(-2, 2, 1000, dtype="f4")


def run(level):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


plain, usual = run(ort.GraphOptimizationLevel.ORT_DISABLE_ALL), run(ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
off_grid = float(np.abs(usual / 0.02 - np.round(usual / 0.02)).max())
apart = float(np.abs(plain - usual).max() / 0.02)
print(f"largest difference {apart:.2f} steps; the optimized values are up to {off_grid:.2f} steps off the grid of 0.02")
assert float(np.abs(plain / 0.02 - np.round(plain / 0.02)).max()) < 1e-3
assert apart > 0.5, "the pairs are merged exactly now"
assert off_grid > 0.1
PY
