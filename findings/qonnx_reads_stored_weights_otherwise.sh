#!/usr/bin/env bash
# qonnx 1.0.0: QCDQToQuant, the way from Q/DQ files to QONNX (FINN, hls4ml), turns a weight stored
# as integers in front of a DequantizeLinear back into floats by itself, and does two things
# otherwise than ONNX. It ignores `axis`, so scales of shape [n] lie along the last axis; and it
# subtracts the zero point in the weight's own 8-bit type, so codes below it wrap around. Where
# shapes happen to fit, nothing is said: a square layer with a scale per output is wrong, and so is
# a uint8 weight with zero point 128. Weights kept as float in front of a Q/DQ pair are right.
#
# Seen: outputs off by more than a third of the largest value in both forms, exact with a pair.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet qonnx==1.0.0 onnx==1.19.1 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.qcdq_to_qonnx import QCDQToQuant
from qonnx.util.cleanup import cleanup_model

rng = np.random.default_rng(0)
x = rng.normal(size=(4, 16)).astype("f4")
per_output = np.linspace(0.002, 0.05, 16, dtype="f4")


def made(weight, scale, zero, with_pair=False):
    axis = {"axis": 0} if scale.ndim else {}
    constants = {"w": weight, "s": scale, "z": zero}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], **axis),
        helper.make_node("Gemm", ["x", "d"], ["y"], transB=1),
    ]
    if with_pair:
        constants["w"] = ((weight.astype("f4") - zero[:, None]) * scale[:, None]).astype("f4")
        nodes[0].input[0] = "q"
        nodes.insert(0, helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], **axis))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 16]) for n in ("x", "y")]
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    checker.check_model(model, full_check=True)
    return model


def apart(model):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": x})
    converted = cleanup_model(ModelWrapper(model)).transform(QCDQToQuant())
    assert [node.op_type for node in converted.graph.node] == ["Quant", "Gemm"]
    (seen,) = execute_onnx(converted, {converted.graph.input[0].name: x}).values()
    return float(np.abs(seen - wanted).max() / np.abs(wanted).max())


signed = rng.integers(-127, 128, size=(16, 16)).astype("i1")
unsigned = rng.integers(0, 256, size=(16, 16)).astype("u1")
zeros = np.zeros(16, "i1")
found = {
    "int8, one scale": apart(made(signed, np.float32(0.01), np.int8(0))),
    "float in front of a pair, a scale per output": apart(made(signed, per_output, zeros, True)),
    "int8, a scale per output": apart(made(signed, per_output, zeros)),
    "uint8 with zero point 128, one scale": apart(made(unsigned, np.float32(0.01), np.uint8(128))),
}
for name, share in found.items():
    print(f"{name}: {share:.2f} of the largest value")
assert [share > 0.3 for share in found.values()] == [False, False, True, True], "that changed"
assert all(share < 1e-5 for share in list(found.values())[:2])
PY
