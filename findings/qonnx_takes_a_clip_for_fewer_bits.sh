#!/usr/bin/env bash
# qonnx 1.0.0: QCDQToQuant reads a Clip between QuantizeLinear and DequantizeLinear as a number of
# bits: it counts the codes that the Clip leaves, rounds up to a power of two, and forgets where
# they lie. int8 clipped to 0..127 (a ReLU on codes) becomes 7 signed bits, -64..63; uint8 clipped
# to 0..200 becomes 8 bits, which is no Clip at all.
#
# Seen: with Clip 0..127 negative values come back and the upper half is cut off; with Clip 0..200
# values above pass; Clip -8..7 (4 bits) is right.
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

x = np.array([-100, -5, 0, 5, 100, 240], "f4")


def run(kind, low, high):
    constants = {"s": np.float32(1), "z": kind(0), "lo": kind(low), "hi": kind(high)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("Clip", ["q", "lo", "hi"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [len(x)]) for n in ("x", "y")]
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": x})
    converted = cleanup_model(ModelWrapper(model)).transform(QCDQToQuant())
    assert [node.op_type for node in converted.graph.node] == ["Quant"]
    (seen,) = execute_onnx(converted, {converted.graph.input[0].name: x}).values()
    return wanted.tolist(), seen.tolist()


print(f"values: {x.tolist()}")
for kind, low, high, said in (
    (np.int8, -8, 7, [-8, -5, 0, 5, 7, 7]),
    (np.int8, 0, 127, [-64, -5, 0, 5, 63, 63]),
    (np.uint8, 0, 200, [0, 0, 0, 5, 100, 240]),
):
    wanted, seen = run(kind, low, high)
    print(f"{kind.__name__} clipped to {low}..{high}: {seen}, {wanted} wanted")
    assert wanted == np.clip(x, low, high).tolist()
    assert seen == said, "that changed"
PY
