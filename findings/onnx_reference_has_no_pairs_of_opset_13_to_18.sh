#!/usr/bin/env bash
# onnx 1.23.2: the reference evaluator has QuantizeLinear and DequantizeLinear of opset 10 and of
# 19 and later, and none for opset 13 to 18, which is where most Q/DQ files are (17 is what
# exporters for TensorRT write).
#
# Seen: a valid file of the same two nodes runs at opset 19, 21 and 23; at 13 and 17 loading it
# raises an error that lists every version but that. version_converter to 19 is a way out.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator


def made(opset):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in ("x", "y")]
    constants = {"s": np.float32(0.1), "z": np.int8(0)}
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    checker.check_model(model, full_check=True)
    return model


def says(model):
    try:
        ReferenceEvaluator(model).run(None, {"x": np.ones(4, "f4")})
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "runs"


found = {opset: says(made(opset)) for opset in (13, 17, 19, 21, 23)}
for opset, said in found.items():
    print(f"opset {opset}: {said[:130]}")
assert all((said == "runs") == (opset >= 19) for opset, said in found.items()), "that changed"
assert says(version_converter.convert_version(made(17), 19)) == "runs"
PY
