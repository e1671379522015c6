#!/usr/bin/env bash
# onnxruntime 1.31.1: a Gemm between pairs whose int32 bias stands behind a DequantizeLinear becomes
# a QGemm. That adds the codes of the bias as they are, so it takes them for steps of the input's
# scale times the weight's, and never looks at the scale that the file gives for the bias. A file
# that gives another one is valid, and gets a bias that is wrong by the ratio of the two scales.
# Conv looks at the scale, and stays right.
#
# Seen: with biases of 1, -2, 3 and the scale of the bias 4 times the product, a Gemm adds a quarter
# of each, also with a scale for each output; a Conv of the same numbers adds the whole.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper

wanted = np.array([1, -2, 3], "f4")
x_scale, w_scale, y_scale = (np.float32(value) for value in (0.05, 0.01, 0.05))
own = np.float32(x_scale * w_scale)
node = helper.make_node


def biases(operator, b_scale, optimize):
    """What the layer adds to an input of zeros."""
    axes = [1, 1] if operator == "Conv" else []
    constants = {
        "xs": x_scale, "ys": y_scale, "z": np.uint8(128), "ws": w_scale, "wz": np.int8(0),
        "w": np.ones([3, 4, *axes], "i1"),
        "b": np.round(wanted / b_scale).astype("i4"), "bs": b_scale,
    }
    options = {"transB": 1} if operator == "Gemm" else {}
    nodes = [
        node("QuantizeLinear", ["x", "xs", "z"], ["q"]),
        node("DequantizeLinear", ["q", "xs", "z"], ["d"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["dw"]),
        node("DequantizeLinear", ["b", "bs"], ["db"], axis=0),
        node(operator, ["d", "dw", "db"], ["c"], **options),
        node("QuantizeLinear", ["c", "ys", "z"], ["p"]),
        node("DequantizeLinear", ["p", "ys", "z"], ["y"]),
    ]
    shapes = (("x", [1, 4, *axes]), ("y", [1, 3, *axes]))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes]
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    checker.check_model(model, full_check=True)
    settings = ort.SessionOptions()
    if not optimize:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = model.SerializeToString()
    session = ort.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.zeros([1, 4, *axes], "f4")})[0].reshape(3)


scales = {
    "input times weight": own,
    "4 times that": own * 4,
    "4, 2 and 1 times that": own * np.array([4, 2, 1], "f4"),
}
for words, b_scale in scales.items():
    print(f"scale of the bias: {words}")
    for operator in ("Gemm", "Conv"):
        plain, found = (biases(operator, b_scale, optimize) for optimize in (False, True))
        values = [outputs.round(2).tolist() for outputs in (found, plain)]
        print(f"    {operator} adds {values[0]}, and {values[1]} without optimizations")
        assert np.allclose(plain, wanted, atol=0.06)
        taken = wanted / (b_scale / own) if operator == "Gemm" else wanted
        assert np.allclose(found, taken, atol=0.06), "that changed"
PY
