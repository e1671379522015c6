#!/usr/bin/env bash
# openvino 2026.4.1, CPU: a 1x1 Conv whose float filters pass a pair of 4 bits does not compile if
# its input passes a pair of int8, uint8 or int4 ("Cannot create ov::Output<ov::Node> from nullptr").
# It compiles, with the right values, with filters of 3x3, with the filters stored as 4-bit integers
# in front of their DQ, with an input pair of uint4, without an input pair, with filters of 8 bits,
# and as a MatMul or Gemm.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
import openvino as ov
from onnx import TensorProto, checker, helper, numpy_helper, save

rng = np.random.default_rng(0)
node = helper.make_node
NUMBERS = {"int4": TensorProto.INT4, "uint4": TensorProto.UINT4,
           "int8": TensorProto.INT8, "uint8": TensorProto.UINT8}


def outcome(operator, activation, weight, stored=False, side=1):
    """"compiles", if also the values are right, or "does not compile"."""
    is_conv = operator == "Conv"
    shape, size = ([1, 4, 4, 4], [4, 4, side, side]) if is_conv else ([3, 4], [4, 4])
    padding = {"pads": [side // 2] * 4} if is_conv else {}
    nodes, read = [], "x"
    constants = [
        numpy_helper.from_array(np.float32(0.5), "s"),
        helper.make_tensor("zw", NUMBERS[weight], [], [0]),
    ]
    if activation:
        constants.append(helper.make_tensor("zx", NUMBERS[activation], [], [0]))
        nodes += [
            node("QuantizeLinear", ["x", "s", "zx"], ["q"]),
            node("DequantizeLinear", ["q", "s", "zx"], ["d"]),
        ]
        read = "d"
    levels = rng.integers(0, 7, size=size)
    if stored:
        constants.append(helper.make_tensor("wq", NUMBERS[weight], size, levels.ravel()))
    else:
        constants.append(numpy_helper.from_array(levels.astype("f4") / 2, "w"))
        nodes.append(node("QuantizeLinear", ["w", "s", "zw"], ["wq"]))
    nodes += [
        node("DequantizeLinear", ["wq", "s", "zw"], ["wd"]),
        node(operator, [read, "wd"], ["y"], **padding),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    checker.check_model(model, full_check=True)
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    x = rng.normal(size=shape).astype("f4")
    session = ort.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run(None, {"x": x})
    save(model, "net.onnx")
    try:
        compiled = ov.Core().compile_model("net.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        assert "from nullptr" in str(error)
        return "does not compile"
    np.testing.assert_allclose(compiled({"x": x})[0], expected, atol=0.3)
    return "compiles"


for activation in ("int8", "uint8", "int4"):
    for weight in ("int4", "uint4"):
        said = outcome("Conv", activation, weight)
        print(f"Conv, {activation} input, {weight} filters: {said}")
        assert said == "does not compile", "that changed"
right = {
    "filters of 3x3": outcome("Conv", "int8", "int4", side=3),
    "filters stored as integers": outcome("Conv", "int8", "int4", stored=True),
    "uint4 input": outcome("Conv", "uint4", "int4"),
    "float input": outcome("Conv", None, "int4"),
    "int8 filters": outcome("Conv", "int8", "int8"),
    "MatMul": outcome("MatMul", "int8", "int4"),
    "Gemm": outcome("Gemm", "int8", "int4"),
}
for what, said in right.items():
    print(f"{what}: {said}")
assert set(right.values()) == {"compiles"}, "that changed"
PY
