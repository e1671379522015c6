#!/usr/bin/env bash
# onnxruntime 1.31.1: quantize_static in QOperator format quantizes a bias once, in steps of the
# first layer that reads it. A second layer with the same bias, which file writers that merge equal
# constants bring about, gets these codes, whatever its own scales are. Nothing is said. In QDQ
# format each layer gets codes of its own.
#
# Seen: two Convs with one bias, the second with weights 100 times as large: off by half of the
# largest output or more; less than 3 percent in QDQ format, and with the bias stored twice.
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
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

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


samples = [{"x": rng.normal(size=[1, 3, 8, 8]).astype("f4")} for _ in range(16)]
bias = rng.normal(size=4).astype("f4") * 3
weights = rng.normal(size=[4, 3, 1, 1]) * 0.3, rng.normal(size=[4, 4, 1, 1]) * 30
found = {}
for words, names in (("one bias", ("b", "b")), ("two equal biases", ("b", "b2"))):
    nodes = [node("Conv", ["x", "w", names[0]], ["c"]), node("Conv", ["c", "v", names[1]], ["y"])]
    constants = {"w": weights[0].astype("f4"), "v": weights[1].astype("f4")}
    write(nodes, {**constants, **dict.fromkeys(names, bias)}, [1, 3, 8, 8], [1, 4, 8, 8])
    for form in (QuantFormat.QOperator, QuantFormat.QDQ):
        found[words, form], _ = cost(quant_format=form)
        print(f"{words}, {form}: quantizing costs {found[words, form]:.3f}")
wrong = found.pop(("one bias", QuantFormat.QOperator))
assert wrong > 0.4, "each layer gets its own codes now"
assert max(found.values()) < 0.03
PY
