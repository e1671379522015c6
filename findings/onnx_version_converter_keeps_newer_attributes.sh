#!/usr/bin/env bash
# onnx 1.23.2: version_converter, asked for a lower opset, keeps what that opset does not have:
# DequantizeLinear's output_dtype and QuantizeLinear's precision from 23 to 21, FP16 inputs from 19
# to 17. It returns an invalid file without a word.
#
# Seen: three files that the checker refuses.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, version_converter

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


def says(opset, target, source=FLOAT, result=FLOAT, quantize={}, dequantize={}):
    kind = "f2" if source == FLOAT16 else "f4"
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **quantize),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **dequantize),
    ]
    ports = [helper.make_tensor_value_info(n, t, [4]) for n, t in (("x", source), ("y", result))]
    constants = {"s": np.array(0.1, kind), "z": np.int8(0)}
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    checker.check_model(model, full_check=True)
    try:
        lowered = version_converter.convert_version(model, target)
    except Exception as error:
        return f"refused: {error}"
    try:
        checker.check_model(lowered, full_check=True)
    except Exception as error:
        return f"invalid: {error}"
    return "valid"


found = {
    "23 to 21, output_dtype of DQ": says(23, 21, FLOAT, FLOAT16, {}, {"output_dtype": FLOAT16}),
    "23 to 21, precision of Q": says(23, 21, quantize={"precision": FLOAT16}),
    "19 to 17, FP16 input": says(19, 17, FLOAT16, FLOAT16),
}
for name, said in found.items():
    print(f"{name}: {said[:110]}")
assert all(said.startswith("invalid") for said in found.values()), "that changed"
PY
