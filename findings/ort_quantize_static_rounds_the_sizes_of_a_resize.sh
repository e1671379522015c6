#!/usr/bin/env bash
# onnxruntime 1.31.1: quantize_static quantizes each Mul and Add, also those that compute in float
# what size a Resize is to have, as in files that torch writes of F.interpolate with scale_factor
# and recompute_scale_factor=True for an image of any size. The size becomes one of 256 steps up to
# the largest one of calibration. Nothing is said, and the file is valid.
#
# Seen: calibrated with images of 64 x 64, a network that doubles its height and width gives 128 x
# 128 for them, 63 x 63 for 32 x 32, and 128 x 128 for 640 x 640, in QDQ and in QOperator format and
# with get_qnn_qdq_config. quant_pre_process does not help. With the two Muls in nodes_to_exclude,
# or the size of the input fixed before quant_pre_process, it is right.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6 sympy==1.14.0
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize, quantize_static
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_dim_param_fixed

random = np.random.default_rng(0)
node = helper.make_node


class Samples(CalibrationDataReader):
    def __init__(self):
        self.rest = iter([{"x": image(64)} for _ in range(8)])

    def get_next(self):
        return next(self.rest, None)


def image(size):
    return random.normal(size=[1, 3, size, size]).astype("f4")


def doubled(axis):
    """Nodes that compute twice the length of an axis, rounded down, as [1] numbers."""
    name = f"of_{axis}_"
    return [
        node("Gather", ["shape", f"axis_{axis}"], [name + "whole"], name=name + "gather"),
        node("Cast", [name + "whole"], [name + "float"], name=name + "cast", to=TensorProto.FLOAT),
        node("Mul", [name + "float", "two"], [name + "twice"], name=name + "mul"),
        node("Floor", [name + "twice"], [name + "floor"], name=name + "floor"),
        node("Cast", [name + "floor"], [name + "back"], name=name + "cast_back",
             to=TensorProto.INT64),
        node("Unsqueeze", [name + "back", "zero"], [name + "length"], name=name + "unsqueeze"),
    ]


def write():
    constants = {
        "w": random.normal(size=[4, 3, 1, 1]).astype("f4"), "two": np.float32(2),
        "zero": np.array([0]), "end": np.array([2]), "axis_2": np.array(2), "axis_3": np.array(3),
    }
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("Shape", ["c"], ["shape"], name="shape"),
        *doubled(2),
        *doubled(3),
        node("Slice", ["shape", "zero", "end"], ["first"], name="slice"),
        node("Concat", ["first", "of_2_length", "of_3_length"], ["sizes"], name="concat", axis=0),
        node("Resize", ["c", "", "", "sizes"], ["y"], name="resize", mode="nearest"),
    ]
    shapes = (("x", [1, 3, "height", "width"]), ("y", [1, 4, "rows", "columns"]))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes]
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    onnx.save(model, "float.onnx")


def heights(file, sizes):
    """Rows of the output for square images of these sizes."""
    checker.check_model(onnx.load(file), full_check=True)
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    return [session.run(None, {"x": image(size)})[0].shape[2] for size in sizes]


write()
sizes = (32, 64, 640)
twice = [2 * size for size in sizes]
print(f"float: images of {sizes} give {heights('float.onnx', sizes)} rows")
assert heights("float.onnx", sizes) == twice
quant_pre_process("float.onnx", "prepared.onnx")


def by_qnn():
    quantize("float.onnx", "int8.onnx", get_qnn_qdq_config("float.onnx", Samples()))


def by_static(source="float.onnx", **options):
    quantize_static(source, "int8.onnx", Samples(), **options)


muls = ["of_2_mul", "of_3_mul"]
for words, make, wanted in (
    ("QDQ", by_static, [63, 128, 128]),
    ("QOperator", lambda: by_static(quant_format=QuantFormat.QOperator), [63, 128, 128]),
    ("get_qnn_qdq_config", by_qnn, [63, 128, 128]),
    ("QDQ after quant_pre_process", lambda: by_static("prepared.onnx"), [63, 128, 128]),
    ("QDQ without the Muls", lambda: by_static(nodes_to_exclude=muls), twice),
):
    make()
    found = heights("int8.onnx", sizes)
    print(f"{words}: {found}")
    assert found == wanted, "that changed"

model = onnx.load("float.onnx")
for axis in ("height", "width"):
    make_dim_param_fixed(model.graph, axis, 64)
fix_output_shapes(model)
onnx.save(model, "fixed.onnx")
quant_pre_process("fixed.onnx", "prepared.onnx")
by_static("prepared.onnx")
found = heights("int8.onnx", [64])
print(f"QDQ of the file with a fixed size: {found}")
left = {one.op_type for one in onnx.load("int8.onnx").graph.node}
assert found == [128] and "Mul" not in left
PY
