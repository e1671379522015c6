#!/usr/bin/env bash
# onnxruntime 1.31.1: QuantizeLinear to float8e5m2 with saturate=0 gives NaN for 61440 to 65535,
# the values that round to more than the largest float8e5m2 (57344) and lie below the next power of
# two. That type has an infinity, which larger values become, and ONNX wants it for all of them. So
# a small overflow turns what comes after it into NaN, and a large one does not.
#
# Seen: 61440 and 65000 become NaN, 65536 and 1e9 infinity; onnx's reference evaluator has infinity
# for all four.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6 ml_dtypes==0.6.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import ml_dtypes
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

x = np.array([57344, 60000, 61440, 65000, 65536, 1e9, np.inf], "f4")
nodes = [
    helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], saturate=0),
    helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
]
ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [len(x)]) for n in ("x", "y")]
constants = {"s": np.float32(1), "z": np.zeros((), ml_dtypes.float8_e5m2)}
stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
checker.check_model(model, full_check=True)
session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
(seen,) = session.run(None, {"x": x})
with np.errstate(all="ignore"):
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
print(f"values:    {x.tolist()}\nruntime:   {seen.tolist()}\nreference: {wanted.tolist()}")
assert wanted.tolist() == [57344, 57344] + [np.inf] * 5
assert np.isnan(seen).tolist() == [False, False, True, True, False, False, False], "that changed"
PY
