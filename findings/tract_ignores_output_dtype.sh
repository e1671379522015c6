#!/usr/bin/env bash
# tract 0.23.9: QuantizeLinear without a zero point takes its type from output_dtype since opset
# 21. tract does not read that attribute and makes uint8 of it, so a symmetric int8 pair written in
# that way cuts off everything below 0, and so a network of such pairs has ReLUs everywhere. With
# a zero point in the file it is right.
#
# Seen: values below 0 become 0 with output_dtype=INT8, and stay with a zero point of int8.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 tract==0.23.9 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime as ort
import tract
from onnx import TensorProto, checker, helper, numpy_helper

x = np.array([-3, -1, -0.1, 0, 0.1, 1, 3], "f4")


def made(has_zero):
    inputs, kind = (["s", "z"], {}) if has_zero else (["s"], {"output_dtype": TensorProto.INT8})
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *inputs], ["q"], **kind),
        helper.make_node("DequantizeLinear", ["q", *inputs], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [len(x)]) for n in ("x", "y")]
    constants = {"s": np.float32(0.1)} | ({"z": np.int8(0)} if has_zero else {})
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    checker.check_model(model, full_check=True)
    return model


for has_zero in (True, False):
    model = made(has_zero)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": x})
    onnx.save(model, "pair.onnx")
    (seen,) = tract.onnx().load("pair.onnx").into_model().into_runnable().run([x])
    seen = seen.to_numpy()
    print(f"{'zero point' if has_zero else 'output_dtype'}: {seen.round(2)}, {wanted.round(2)} wanted")
    assert np.allclose(wanted, x, atol=0.051)
    assert np.allclose(seen, wanted if has_zero else np.maximum(wanted, 0)), "that changed"
PY
