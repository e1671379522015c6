"""Quantized layers that ONNX Runtime computes as a Gemm in float are reported exactly where it does
so, by its own optimized graphs."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.onnx_quantizers import by_modelopt, by_onnxruntime
from support.random_graphs import CHANNELS, SIDE

from sensitivity.onnx_graph.load import load_model
from sensitivity.rules.examples import Example, qdq, weights
from sensitivity.rules.lint import lint_model

onnxruntime = pytest.importorskip("onnxruntime", reason="asks ONNX Runtime itself")

GIVEN = {
    "v2": weights(16, 16),
    "w8": np.arange(256).reshape(16, 16).astype(np.uint8).view(np.int8),
    "b32": np.linspace(-4000, 4000, 16).astype(np.int32),
    "own": np.full(16, 5e-4, np.float32),
    "row": weights(1, 16),
    "half": np.array(0.5, np.float32),
    "two": np.array(2, np.float32),
    "low": np.array(0, np.float32),
    "wu": np.full(16, 128, np.uint8),
    "h": np.array(1000, np.uint16),
    "wz16": np.zeros(16, np.int16),
    "flat": np.array([16, 16], np.int64),
}
INT32 = "bd = DequantizeLinear <axis = 0> (b32, own)\n"
LAYERS = {
    "Gemm": "[fc] c = Gemm (xd, wd, b)\n",
    "MatMul and Add": "[fc] m = MatMul (xd, wd)\nc = Add (b, m)\n",
    "MatMul": "[fc] c = MatMul (xd, wd)\n",
    "Gemm without bias": "[fc] c = Gemm (xd, wd)\n",
    "Gemm with int32 bias": INT32 + "[fc] c = Gemm (xd, wd, bd)\n",
    "MatMul and int32 bias": INT32 + "[fc] m = MatMul (xd, wd)\nc = Add (m, bd)\n",
    "Gemm plus a row": "[fc] c = Gemm (xd, wd, row)\n",
    "MatMul plus a row": "[fc] m = MatMul (xd, wd)\nc = Add (m, row)\n",
    "MatMul plus a number": "[fc] m = MatMul (xd, wd)\nc = Add (m, half)\n",
    "Gemm with alpha": "[fc] c = Gemm <alpha = 0.5> (xd, wd, b)\n",
    "Gemm with alpha alone": "[fc] c = Gemm <alpha = 0.5> (xd, wd)\n",
    "Gemm with beta and int32 bias": INT32 + "[fc] c = Gemm <beta = 2.0> (xd, wd, bd)\n",
    "Gemm with a computed bias": "bb = Sigmoid (b)\n[fc] c = Gemm (xd, wd, bb)\n",
}
BEHIND = {
    "nothing": "y = Identity (c)",
    "Sigmoid": "y = Sigmoid (c)",
    "Relu": "y = Relu (c)",
    "Relu and Sigmoid": "r = Relu (c)\ny = Sigmoid (r)",
    "Clip and Sigmoid": "r = Clip (c, low, two)\ny = Sigmoid (r)",
    "pair": qdq("c", zero="u128", to="y"),
    "Relu and pair": "r = Relu (c)\n" + qdq("r", zero="u128", to="y"),
    "Relu and pair from 0": "r = Relu (c)\n" + qdq("r", zero="u", to="y"),
    "pair and Sigmoid": qdq("c", zero="u128", to="cd") + "f = Sigmoid (c)\ny = Add (cd, f)",
    "Transpose and pair": "t = Transpose (c)\n" + qdq("t", zero="u128", to="y"),
}
FRONT = qdq("x2", zero="u128", to="xd")
FRONTS = {
    "uint8": FRONT,
    "int8": qdq("x2", to="xd"),
    "int16": qdq("x2", zero="h", to="xd"),
    "moved": qdq("x2", zero="u128", to="x8") + "xd = Reshape (x8, flat)\n",
    "float": "xd = Sigmoid (x2)\n",
}
WEIGHT = qdq("v2", "ws", "wz", axis=1, to="wd")
WEIGHTS = {
    "pair": WEIGHT,
    "stored": "wd = DequantizeLinear <axis = 1> (w8, ws, wz)\n",
    "without zero points": "wd = DequantizeLinear <axis = 1> (w8, ws)\n",
    "uint8": qdq("v2", "ws", "wu", axis=1, to="wd"),
    "int16": qdq("v2", "ws", "wz16", axis=1, to="wd"),
    "turned": qdq("v2", "s", "z", to="vd") + "wd = Transpose <perm = [1, 0]> (vd)\n",
    "float": "wd = Identity (v2)\n",
}
SHAPES = ["16,16", "n,16", "1,16,16", "1,n,16", "n,2,16", "2,2,16"]


def network(
    layer: str,
    behind: str,
    front: str = FRONT,
    weight: str = WEIGHT,
    shape: str = "16,16",
    result: str = "",
) -> ir.Model:
    body = front + weight + layer + behind
    given, made = f"float[{shape}] x2", f"float[{result or shape}] y"
    return Example(body, given, made, opset=21, constants=GIVEN).model()


def count_float_gemms(model: ir.Model, folder: Path) -> int:
    """How many Gemms ONNX Runtime computes in float whose weights it dequantizes at each run."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    content = ir.to_proto(model).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(folder / "optimized.onnx").graph.node
    dequantized = {one.output[0] for one in nodes if one.op_type == "DequantizeLinear"}
    gemms = [one for one in nodes if one.op_type in {"Gemm", "FusedGemm"}]
    return sum(one.input[1] in dequantized for one in gemms)


def found(model: ir.Model) -> list[str]:
    """The messages of the rule."""
    return [one.message for one in lint_model(model, "onnxruntime") if one.code == "SQ713"]


@pytest.mark.parametrize(("layer", "behind"), product(LAYERS, BEHIND))
def test_layers_are_reported_where_the_runtime_makes_a_float_gemm(
    tmp_path: Path, layer: str, behind: str
) -> None:
    model = network(LAYERS[layer], BEHIND[behind])
    assert len(found(model)) == count_float_gemms(model, tmp_path)


@pytest.mark.parametrize("layer", ["Gemm", "MatMul and Add"])
@pytest.mark.parametrize(("front", "weight"), product(FRONTS, WEIGHTS))
def test_only_layers_with_8_bit_pairs_are_reported(
    tmp_path: Path, layer: str, front: str, weight: str
) -> None:
    model = network(LAYERS[layer], "y = Sigmoid (c)", FRONTS[front], WEIGHTS[weight])
    has_8_bits = front in {"uint8", "int8", "moved"} and weight not in {
        "int16",
        "float",
    }
    assert has_8_bits == bool(found(model))
    assert not has_8_bits or count_float_gemms(model, tmp_path)


@pytest.mark.parametrize("layer", ["MatMul and Add", "MatMul plus a row", "MatMul and int32 bias"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_matmul_is_reported_if_the_runtime_knows_enough_sides_to_make_a_gemm(
    tmp_path: Path, layer: str, shape: str
) -> None:
    model = network(LAYERS[layer], "y = Sigmoid (c)", shape=shape)
    assert len(found(model)) == count_float_gemms(model, tmp_path)


@pytest.mark.parametrize("weight", ["turned", "pair", "stored"])
@pytest.mark.parametrize("behind", ["Sigmoid", "pair"])
@pytest.mark.parametrize(
    "layer",
    ["Gemm", "Gemm of rows", "Gemm without bias", "Gemm with int32 bias", "MatMul and Add"],
)
def test_a_pair_in_front_of_a_flatten_reaches_no_integer_gemm(
    tmp_path: Path, weight: str, behind: str, layer: str
) -> None:
    """A weight with a column for each output goes to a MatMulNBits instead, unless the output is
    quantized."""
    front = qdq("x2", zero="u128", to="x8") + "xd = Flatten (x8)\n"
    text = (LAYERS | {"Gemm of rows": "[fc] c = Gemm <transB = 1> (xd, wd, b)\n"})[layer]
    model = network(text, BEHIND[behind], front, WEIGHTS[weight], "16,4,4", "16,16")
    assert len(found(model)) == count_float_gemms(model, tmp_path)


CLASSIFIER = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    classifier (float[4,{CHANNELS},{SIDE},{SIDE}] x) => (float[4,10] y) {{
        f = Flatten (x)
        [wide] g = Gemm <transB = 1> (f, w1, b1)
        r = Relu (g)
        [narrow] m = MatMul (r, w2)
        n = Add (m, b2)
        t = Sigmoid (n)
        h = Mul (n, t)
        [last] l = MatMul (h, w3)
        y = Add (l, b3)
    }}
"""


def classifier(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    model = onnx.parser.parse_model(CLASSIFIER)
    shapes = {"w1": (32, CHANNELS * SIDE * SIDE), "w2": (32, 16), "w3": (16, 10)}
    shapes |= {"b1": (32,), "b2": (16,), "b3": (10,)}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(draw.normal(size=shape).astype(np.float32), name)
        for name, shape in shapes.items()
    )
    onnx.save(model, folder / "float.onnx")
    return folder / "float.onnx"


FLOAT_SUMS = by_onnxruntime(
    op_types_to_quantize=["Gemm", "MatMul"],
    extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
)
TOOLKITS = {
    "quantize_static": (by_onnxruntime(), []),
    "quantize_static-per_channel": (by_onnxruntime(per_channel=True), []),
    "quantize_static-float-sums": (FLOAT_SUMS, ["narrow", "last"]),
    "modelopt": (partial(by_modelopt, high_precision_dtype="fp32"), ["wide", "narrow"]),
    "modelopt-fp16": (by_modelopt, []),
}


@pytest.mark.parametrize("toolkit", TOOLKITS)
def test_files_of_toolkits_are_reported_where_the_runtime_makes_float_gemms(
    tmp_path: Path, toolkit: str
) -> None:
    quantize, expected = TOOLKITS[toolkit]
    quantize(classifier(tmp_path), tmp_path / "model.onnx")
    model = load_model(tmp_path / "model.onnx")
    reported = [one.node for one in lint_model(model, "onnxruntime") if one.code == "SQ713"]
    assert reported == expected
    assert len(reported) == count_float_gemms(model, tmp_path)
