#!/usr/bin/env bash
# onnxruntime 1.31.1: SymbolicShapeInference (which quant_pre_process and Polygraphy's constant
# folding call) takes a QuantizeLinear without a zero point for uint8, whatever its output_dtype
# says (opset 21), and writes that type into the file. The result is neither valid nor loadable.
#
# Seen: value_info of uint8 behind output_dtype=INT8, and ONNX Runtime refusing the file it has
# written.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6 sympy==1.14.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

nodes = [
    helper.make_node("QuantizeLinear", ["x", "s"], ["q"], output_dtype=TensorProto.INT8),
    helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
]
ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 8]) for n in ("x", "y")]
stored = [numpy_helper.from_array(np.float32(0.05), "s")]
graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
checker.check_model(model, full_check=True)
ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
made = SymbolicShapeInference.infer_shapes(model)
(kind,) = (v.type.tensor_type.elem_type for v in made.graph.value_info if v.name == "q")
try:
    ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    said = "loads"
except Exception as error:
    said = str(error)
print(f"type behind output_dtype=INT8: {TensorProto.DataType.Name(kind)}; {said[:140]}")
assert kind == TensorProto.UINT8, "output_dtype is read now"
assert "does not match expected type" in said
PY
