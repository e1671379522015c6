#!/usr/bin/env bash
# onnxruntime 1.31.1: MatMulNBitsQuantizer writes symmetric 4-bit weights with scales of both signs: the value of largest
# magnitude of each block is put on -8, so a block whose largest value is positive gets a negative scale. That is valid
# ONNX; readers that expect every scale to be above 0 refuse the file or call its blocks uncalibrated.
#
# Seen: about half of the scales below 0, and dequantized values within half a step of the weights all the same.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnx-ir==1.1.0 onnxruntime==1.31.1 numpy==2.4.6 ml_dtypes
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper
from onnxruntime.quantization import QuantFormat
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

rng = np.random.default_rng(0)
weight = rng.normal(size=(128, 64)).astype("f4")
ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 128), ("y", 64))]
graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")], "net", ports[:1], ports[1:], [numpy_helper.from_array(weight, "w")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
quantizer = MatMulNBitsQuantizer(model, block_size=32, is_symmetric=True, quant_format=QuantFormat.QDQ)
quantizer.process()
made = quantizer.model.model
checker.check_model(made)
(scales,) = (numpy_helper.to_array(i) for i in made.graph.initializer if i.data_type == TensorProto.FLOAT)
session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
back = session.run(None, {"x": np.eye(128, dtype="f4")})[0]
steps = np.abs(back - weight) / np.abs(np.repeat(scales, 32, 0))
negative = float((scales < 0).mean())
print(f"{negative:.0%} of {scales.size} scales are negative; the weights are {np.median(steps):.2f} steps away (median)")
assert 0.3 < negative < 0.7, "scales are positive now"
assert np.median(steps) < 0.5
PY
