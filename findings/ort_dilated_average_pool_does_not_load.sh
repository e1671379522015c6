#!/usr/bin/env bash
# onnxruntime 1.31.1: an AveragePool between pairs becomes a QLinearAveragePool, an operator that is
# older than the attribute dilations, which AveragePool has since opset 19. Every attribute is
# passed on, a dilations of ones too, so a valid file does not load. MaxPool between pairs takes it,
# and so does AveragePool without optimizations.
#
# Seen: "Unrecognized attribute: dilations for operator QLinearAveragePool", with [2, 2] and [1, 1].
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper

x = np.random.default_rng(0).normal(size=(1, 2, 8, 8)).astype("f4")
stored = [
    numpy_helper.from_array(np.asarray(np.float32(0.05)), "s"),
    numpy_helper.from_array(np.asarray(np.uint8(128)), "z"),
]


def loaded(operator, optimize, **options):
    """What is said when the file is loaded and run."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node(operator, ["d"], ["p"], kernel_shape=[2, 2], **options),
        helper.make_node("QuantizeLinear", ["p", "s", "z"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "s", "z"], ["y"]),
    ]
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, None, None]),
    ]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    checker.check_model(model, full_check=True)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    if not optimize:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = model.SerializeToString()
    try:
        session = ort.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        return str(error).split("Error ")[-1]
    session.run(None, {"x": x})
    return "runs"


for operator in ("MaxPool", "AveragePool"):
    for options in ({}, {"dilations": [1, 1]}, {"dilations": [2, 2]}):
        said = loaded(operator, True, **options)
        print(f"{operator} with {options}: {said}")
        assert loaded(operator, False, **options) == "runs"
        if operator == "MaxPool" or not options:
            assert said == "runs"
        else:
            assert "Unrecognized attribute: dilations" in said, "that changed"
PY
