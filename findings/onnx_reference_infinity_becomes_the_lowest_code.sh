#!/usr/bin/env bash
# onnx 1.23.2: the reference evaluator rounds in QuantizeLinear by way of int32 before it
# saturates, so a value of more than 2**31 steps, +inf among them, wraps and comes out as the
# lowest code instead of the highest. The specification says saturate; ONNX Runtime does. Whoever
# takes the reference for the truth sees masked logits change sign.
#
# Seen: 100 becomes code 127; 1e10 and +inf become -128; -inf is right.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])]
ports = [
    helper.make_tensor_value_info("x", TensorProto.FLOAT, [4]),
    helper.make_tensor_value_info("y", TensorProto.INT8, [4]),
]
stored = [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")]
graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
checker.check_model(model, full_check=True)
x = np.array([100, 1e10, np.inf, -np.inf], "f4")
with np.errstate(invalid="ignore"):
    (codes,) = ReferenceEvaluator(model).run(None, {"x": x})
print(dict(zip(x.tolist(), codes.tolist())))
assert codes.tolist() == [127, -128, -128, -128], "that changed"
PY
