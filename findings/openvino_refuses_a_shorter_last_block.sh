#!/usr/bin/env bash
# openvino 2026.4.1: a DequantizeLinear with scales per block (opset 21) does not load where the
# last block is shorter than the others, which ONNX allows: ceil(size / block) scales. ONNX
# Runtime's MatMulNBitsQuantizer writes such a file in QDQ format for every MatMul whose inputs are
# no multiple of the block. Blocks along the last axis load and do not compile.
#
# Seen: 64 inputs in blocks of 32 compile and agree, 80 do not load; blocks of 8 along the 24
# outputs fail in a rewriting step. ONNX Runtime runs all three.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1 \
    numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
import openvino as ov
from onnx import TensorProto, checker, helper, numpy_helper

rng = np.random.default_rng(0)


def outcome(inputs, axis, block):
    shape = [inputs, 24]
    shape[axis] = -(-shape[axis] // block)
    constants = {
        "w": rng.integers(-127, 128, size=(inputs, 24)).astype("i1"),
        "s": rng.uniform(0.01, 0.02, size=shape).astype("f4"),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=axis, block_size=block),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    shapes = (("x", [5, inputs]), ("y", [5, 24]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    x = rng.normal(size=(5, inputs)).astype("f4")
    (wanted,) = session.run(None, {"x": x})
    core = ov.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    try:
        loaded = core.read_model(content)
    except Exception:
        return "does not load"
    try:
        compiled = core.compile_model(loaded, "CPU", exact)
    except RuntimeError:
        return "does not compile"
    result = compiled({"x": x})[compiled.output(0)]
    return "agrees" if np.allclose(result, wanted, atol=1e-3) else "differs"


for inputs, axis, block, said in (
    (64, 0, 32, "agrees"), (80, 0, 32, "does not load"), (64, 1, 8, "does not compile"),
):
    seen = outcome(inputs, axis, block)
    print(f"{inputs} x 24 in blocks of {block} along axis {axis}: {seen}")
    assert seen == said, "that changed"
PY
