#!/usr/bin/env bash
# qonnx 1.0.0: QuantToQCDQ, the way from QONNX (Brevitas, FINN, hls4ml) to Q/DQ files, gives a scale
# of shape [n] the axis 0. In a Quant it is broadcast as numpy does it, which is along the last
# axis: a scale per column becomes one per row. Where both have the same size, which is the case in
# every square weight, nothing is said. And an unsigned Quant of 8 bits with narrow=1 loses its
# limit of 254 codes, because the Clip behind the pair is only written below 8 bits.
#
# Seen: a 4 x 4 tensor is off by up to 4.9, and with the scale as [1, 4] or [4, 1] it is exact; with
# narrow=1 codes of 255 appear, with 7 bits they do not.
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
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.transformation.qonnx_to_qcdq import QuantToQCDQ

row = np.array([0.1, 0.2, 0.4, 0.8], "f4")
x = np.linspace(-8, 30, 16, dtype="f4").reshape(4, 4)


def both(scale, bits, **attributes):
    """A Quant in qonnx, and the file that QuantToQCDQ makes of it in ONNX Runtime."""
    stored = {"scale": scale, "zero": np.zeros((), "f4"), "bits": np.float32(bits)}
    inputs = ["x", *stored]
    kind = "qonnx.custom_op.general"
    attributes |= {"domain": kind, "rounding_mode": "ROUND"}
    node = helper.make_node("Quant", inputs, ["y"], **attributes)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in "xy"]
    constants = [numpy_helper.from_array(np.asarray(v), name) for name, v in stored.items()]
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(kind, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    quant = ModelWrapper(model).transform(InferShapes())
    wanted = execute_onnx(quant, {"x": x})["y"]
    pairs = quant.transform(QuantToQCDQ()).model
    checker.check_model(pairs)
    session = ort.InferenceSession(pairs.SerializeToString(), providers=["CPUExecutionProvider"])
    return wanted, session.run(None, {"x": x})[0]


for scale in (row, row.reshape(1, 4), row.reshape(4, 1)):
    wanted, found = both(scale, 4, signed=1, narrow=0)
    by_hand = np.clip(np.round(x / scale), -8, 7) * scale
    assert np.allclose(wanted, by_hand, atol=1e-6)
    error = float(np.abs(found - wanted).max())
    print(f"scale of shape {list(scale.shape)}: off by {error:.1f}")
    assert error > 4 if scale.ndim == 1 else error < 1e-6, "that changed"
    if scale.ndim == 1:
        column = row.reshape(4, 1)
        assert np.allclose(found, np.clip(np.round(x / column), -8, 7) * column, atol=1e-6)
for bits in (7, 8):
    wanted, found = both(np.float32(0.1), bits, signed=0, narrow=1)
    codes = [round(float(values.max()) * 10) for values in (wanted, found)]
    print(f"{bits} unsigned bits with narrow=1: up to code {codes[0]}, in the Q/DQ file {codes[1]}")
    assert codes == ([126, 126] if bits == 7 else [254, 255]), "that changed"
PY
