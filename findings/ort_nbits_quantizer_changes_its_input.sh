#!/usr/bin/env bash
# onnxruntime 1.31.1: MatMulNBitsQuantizer quantizes the very model that it is given. Whoever tries
# several bit widths or block sizes on one loaded model quantizes it once: in the second run no
# MatMul is left, a line of the log says "skip to quantize", and the accuracy of the first setting
# is measured again for every other.
#
# Seen: 8 bits after 4 bits on one model give the same error as 4 bits; on a copy for each setting
# the error of 8 bits is a tenth of it or less.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnx-ir==1.1.0 onnxruntime==1.31.1 \
    numpy==2.4.6 ml_dtypes==0.6.0 sympy==1.14.0
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper
from onnxruntime.quantization import matmul_nbits_quantizer as nbits

rng = np.random.default_rng(0)
x, weight = (rng.normal(size=shape).astype("f4") for shape in ((5, 64), (64, 24)))
nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
shapes = (("x", [5, 64]), ("y", [5, 24]))
ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
stored = [numpy_helper.from_array(weight, "w")]
graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
checker.check_model(model, full_check=True)


def error(given, bits):
    config = nbits.DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, bits=bits)
    quantizer = nbits.MatMulNBitsQuantizer(given, algo_config=config)
    quantizer.process()
    content = quantizer.model.model.SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    wanted = x @ weight
    return float(np.abs(session.run(None, {"x": x})[0] - wanted).max() / np.abs(wanted).max())


copies = [error(ModelProto.FromString(model.SerializeToString()), bits) for bits in (4, 8)]
one = [error(model, bits) for bits in (4, 8)]
print(f"errors with 4 and 8 bits: {copies} on a copy for each, {one} on one model")
print("operations of the given model:", [node.op_type for node in model.graph.node])
assert copies[1] < copies[0] / 5
assert one == [copies[0], copies[0]], "the given model stays as it was now"
assert [node.op_type for node in model.graph.node] == ["MatMulNBits"]
PY
