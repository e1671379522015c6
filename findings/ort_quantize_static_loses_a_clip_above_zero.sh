#!/usr/bin/env bash
# onnxruntime 1.31.1: quantize_static removes a Clip behind a layer, since the pair there clamps at
# the ends of its range. A range always holds 0, so a Clip whose limits do not (0.3 to 0.8) is not
# what is left of it: values from 0 to 0.3 pass. The same in both formats and with per_channel;
# qdq_keep_removable_activations keeps the Clip.
#
# Seen: off by a fifth of the largest output or more with limits 0.3 and 0.8; less than 5 percent
# with -0.3 and 0.8, and with the Clip kept.
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
weights = rng.normal(size=[4, 3, 1, 1]) * 0.3, rng.normal(size=[4, 4, 1, 1]) * 0.3
nodes = [
    node("Conv", ["x", "w"], ["c"]),
    node("Clip", ["c", "low", "high"], ["d"]),
    node("Conv", ["d", "v"], ["y"]),
]
constants = {"w": weights[0].astype("f4"), "v": weights[1].astype("f4"), "high": np.float32(0.8)}
kept = {"extra_options": {"QDQKeepRemovableActivations": True}}
for low in (0.3, -0.3):
    write(nodes, {**constants, "low": np.float32(low)}, [1, 3, 8, 8], [1, 4, 8, 8])
    for words, options in (
        ("QDQ", {}), ("QOperator", {"quant_format": QuantFormat.QOperator}), ("QDQ, kept", kept)
    ):
        found, kinds = cost(**options)
        print(f"limits {low} and 0.8, {words}: quantizing costs {found:.3f}")
        assert ("Clip" in kinds) == (options is kept), "that changed"
        lost = low > 0 and options is not kept
        assert (found > 0.2) if lost else (found < 0.05), "that changed"
PY
