#!/usr/bin/env bash
# onnxruntime 1.31.1: a MatMul of a quantized activation and a quantized weight, with an Add of a
# float bias behind it and a float output, as the last layer of a classifier has, is computed in
# float, and its int8 weight is dequantized at every run. The loader first makes a Gemm of MatMul
# and Add; a Gemm without a pair behind it becomes integer only with an int32 bias or none. MatMul
# alone would become MatMulIntegerToFloat. The default optimizations make the file slower.
#
# Seen: inputs of [n, k] and [1, 4, k] run DequantizeLinear of the weight and Gemm, as does a Gemm
# that the file holds itself. The weight stays int8 if n of [1, n, k] is free, without the bias,
# with an int32 bias, and, unless the file holds a Gemm, with
# disabled_optimizers=["MatMulAddFusion"]. Times are printed: 15 times as long or more for a weight
# of 1280 x 1000.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper

inputs, outputs = 1280, 1000
random = np.random.default_rng(0)
node = helper.make_node
x_scale, w_scale = np.float32(0.05), np.float32(0.001)
constants = {
    "xs": x_scale, "xz": np.uint8(128), "ws": w_scale, "wz": np.int8(0),
    "w": random.integers(-63, 64, [inputs, outputs]).astype("i1"),
    "float": random.normal(size=outputs).astype("f4"),
    "int32": random.integers(-9999, 9999, outputs).astype("i4"),
    "bs": np.float32(x_scale * w_scale),
}


def operators(layer, shape, bias=None, disabled=None):
    """The operators that ONNX Runtime runs, and the milliseconds that it takes for 4 rows."""
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        node("DequantizeLinear", ["q", "xs", "xz"], ["d"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["dw"]),
    ]
    if bias == "int32":
        nodes.append(node("DequantizeLinear", ["int32", "bs"], ["added"]))
    added = {"int32": ["added"], "float": ["float"], None: []}[bias]
    if layer == "Gemm":
        nodes.append(node("Gemm", ["d", "dw", *added], ["y"]))
    else:
        nodes.append(node("MatMul", ["d", "dw"], ["m" if added else "y"]))
        nodes += [node("Add", ["m", *added], ["y"])] if added else []
    used = {name for one in nodes for name in one.input}
    stored = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items() if n in used]
    sizes = (("x", [*shape, inputs]), ("y", [*shape, outputs]))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in sizes]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    checker.check_model(model, full_check=True)

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    settings.optimized_model_filepath = "optimized.onnx"
    content = model.SerializeToString()
    session = ort.InferenceSession(
        content, settings, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )
    rows = [4 if isinstance(size, str) else size for size in shape]
    x = random.normal(size=[*rows, inputs]).astype("f4")
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        session.run(None, {"x": x})
        times.append(time.perf_counter() - begin)
    graph = onnx.load("optimized.onnx").graph
    return [one.op_type for one in graph.node], float(np.median(times[5:]) * 1000)


no_fusion = ["MatMulAddFusion"]
for words, settings, is_float in (
    ("MatMul and float bias, [4, k]", ("MatMul", [4], "float"), True),
    ("MatMul and float bias, [n, k]", ("MatMul", ["n"], "float"), True),
    ("MatMul and float bias, [1, 4, k]", ("MatMul", [1, 4], "float"), True),
    ("Gemm with float bias, [4, k]", ("Gemm", [4], "float"), True),
    ("MatMul and float bias, [1, n, k]", ("MatMul", [1, "n"], "float"), False),
    ("MatMul alone, [4, k]", ("MatMul", [4]), False),
    ("MatMul and int32 bias, [4, k]", ("MatMul", [4], "int32"), False),
    ("Gemm alone, [4, k]", ("Gemm", [4]), False),
    ("Gemm with int32 bias, [4, k]", ("Gemm", [4], "int32"), False),
    ("the first without MatMulAddFusion", ("MatMul", [4], "float", no_fusion), False),
    ("the third without MatMulAddFusion", ("MatMul", [1, 4], "float", no_fusion), False),
):
    kinds, milliseconds = operators(*settings)
    print(f"{words}: {milliseconds:.2f} ms, {', '.join(kinds)}")
    integer = {"MatMulIntegerToFloat", "QGemm"} & set(kinds)
    assert ("Gemm" in kinds and kinds.count("DequantizeLinear") == 2) == is_float, "that changed"
    assert bool(integer) != is_float, "that changed"
PY
