#!/usr/bin/env bash
# onnxruntime 1.31.1: FP8 pairs around an operator are valid ONNX from opset 19 on, and run without
# optimizations. The default ones fuse them into integer operators without looking at their type.
# These do not take FP8, so the file does not load ("This is an invalid model"). With
# session.disable_quant_qdq=1 it loads, and the values are right. Even a Transpose or MaxPool is moved
# in between its pairs, where it does not take FP8. Operators without an integer form load.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper

rng = np.random.default_rng(0)
node = helper.make_node
IMAGE = [1, 4, 4, 4]


def pair(value, end, kind):
    return [
        node("QuantizeLinear", [value, "s", f"z{kind}"], [end + "_q"]),
        node("DequantizeLinear", [end + "_q", "s", f"z{kind}"], [end]),
    ]


def outcome(kind, operator, weight=None, shape=IMAGE, reads=("d", "w"), **options):
    """"loads", or the operator that does not take FP8."""
    nodes = pair("x", "d", kind) + pair("w0", "w", kind)
    nodes += [node(operator, reads, ["c"], **options), *pair("c", "y", kind)]
    stored = [
        numpy_helper.from_array(np.float32(0.05), "s"),
        helper.make_tensor(f"z{kind}", kind, [], b"\0", raw=True),
        numpy_helper.from_array(rng.normal(size=weight or shape).astype("f4"), "w0"),
    ]
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(shape)),
    ]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    checker.check_model(model, full_check=True)
    x = rng.normal(size=shape).astype("f4")
    found, said = [], "loads"
    for level, fuses in (("DISABLE_ALL", True), ("ENABLE_ALL", False), ("ENABLE_ALL", True)):
        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{level}")
        if not fuses:
            settings.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            session = ort.InferenceSession(
                model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            assert level == "ENABLE_ALL" and fuses and "This is an invalid model" in str(error)
            said = str(error).split("of operator (")[1].split(")")[0]
        else:
            found.append(session.run(None, {"x": x})[0])
    assert len(found) >= 2 and all(np.allclose(found[0], one, atol=0.3) for one in found[1:])
    return said


for name in ("FLOAT8E4M3FN", "FLOAT8E5M2"):
    kind = getattr(TensorProto, name)
    refused = {
        "MatMul": outcome(kind, "MatMul", [4, 4], [3, 4]),
        "Gemm": outcome(kind, "Gemm", [4, 4], [3, 4]),
        "Conv": outcome(kind, "Conv", [4, 4, 1, 1]),
        "Add": outcome(kind, "Add"),
        "Mul": outcome(kind, "Mul"),
        "Concat": outcome(kind, "Concat", axis=0),
        "Sigmoid": outcome(kind, "Sigmoid", reads=["d"]),
        "AveragePool": outcome(kind, "AveragePool", reads=["d"], kernel_shape=[2, 2]),
        "MaxPool": outcome(kind, "MaxPool", reads=["d"], kernel_shape=[2, 2]),
        "Transpose": outcome(kind, "Transpose", reads=["d"]),
    }
    loads = {
        "Exp": outcome(kind, "Exp", reads=["d"]),
        "Tanh": outcome(kind, "Tanh", reads=["d"]),
    }
    for operator, said in {**refused, **loads}.items():
        print(f"{name} {operator}: {said}")
    assert "loads" not in refused.values() and set(loads.values()) == {"loads"}, "that changed"
PY
