#!/usr/bin/env bash
# onnxruntime 1.31.1: the bias of a Gemm may be a number, a row, a column or a whole matrix.
# quantize_static(per_channel=True) takes it for a row and raises an error of NumPy for the others,
# which names neither the node nor the bias. Per tensor all four are quantized.
#
# Seen: IndexError for a number and a column, ValueError for a matrix; the row works.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static

rng = np.random.default_rng(0)
node = helper.make_node


class Samples(CalibrationDataReader):
    def __init__(self):
        self.rest = iter(samples)

    def get_next(self):
        return next(self.rest, None)


def outputs(file):
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, sample)[0] for sample in samples])


def write(nodes, constants, x_shape, y_shape):
    shapes = (("x", x_shape), ("y", y_shape))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes]
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    onnx.save(model, "float.onnx")


def cost(**options):
    """The largest difference that quantizing makes, in parts of the largest output, and the
    operators that are left."""
    quantize_static("float.onnx", "int8.onnx", Samples(), **options)
    plain = outputs("float.onnx")
    kinds = [one.op_type for one in onnx.load("int8.onnx").graph.node]
    return float(np.abs(outputs("int8.onnx") - plain).max() / np.abs(plain).max()), kinds


samples = [{"x": rng.normal(size=[4, 6]).astype("f4")} for _ in range(4)]
weight = rng.normal(size=[6, 5]).astype("f4")
wanted = {"row": "works", "number": "IndexError", "column": "IndexError", "matrix": "ValueError"}
shapes = {"row": [5], "number": [], "column": [4, 1], "matrix": [4, 5]}
for words, shape in shapes.items():
    bias = np.asarray(rng.normal(size=shape), "f4")
    write([node("Gemm", ["x", "w", "b"], ["y"])], {"w": weight, "b": bias}, [4, 6], [4, 5])
    per_tensor, _ = cost()
    try:
        cost(per_channel=True)
        said = "works"
    except Exception as error:
        said = type(error).__name__
    print(f"bias of shape {shape}: {said} per channel, costs {per_tensor:.3f} per tensor")
    assert per_tensor < 0.03
    assert said == wanted[words], "that changed"
PY
