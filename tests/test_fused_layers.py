"""Layers that ONNX Runtime fuses into an operator which cannot express them: they are found exactly
where it happens, and written in another form."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.processors import exact_int8

from sensitivity.exporters.for_onnxruntime import faithful
from sensitivity.exporters.lower_onnxruntime import lower
from sensitivity.rules.examples import Example, conv, qdq, weights
from sensitivity.rules.lint import lint_model

onnxruntime = pytest.importorskip("onnxruntime", reason="asks ONNX Runtime itself")

REFUSED = onnxruntime.capi.onnxruntime_pybind11_state
CODES = {"SQ707", "SQ708", "SQ709", "SQ710"}
SCALES = np.geomspace(1e-3, 5e-2, 16).astype(np.float32)
GIVEN = {
    "v2": weights(16, 16),
    "ws": SCALES,
    "sy": np.array(0.3, np.float32),
    "tile": np.full(16, 0.01, np.float32),
    "b32": np.linspace(-4000, 4000, 16).astype(np.int32),
    "own": np.full(16, 5e-4, np.float32),
    "other": np.full(16, 2e-3, np.float32),
    "narrow": weights(8, 16, 3, 3),
    "half": np.array(0.5, np.float32),
    "w8": np.arange(256).reshape(16, 16).astype(np.uint8).view(np.int8),
    "batched": np.arange(256).reshape(1, 16, 16).astype(np.uint8).view(np.int8),
    "bs": np.geomspace(1e-3, 5e-2, 64).reshape(4, 16).astype(np.float32),
}
BEHIND = qdq("c", "sy", "u128", to="y")
FRONT = qdq("x2", zero="u128", to="xd")


def image(weight: str, rest: str) -> Example:
    return Example(qdq("x", zero="u128") + weight + rest, opset=21, constants=GIVEN)


def rows(weight: str, rest: str) -> Example:
    return Example(
        FRONT + weight + rest,
        inputs="float[16,16] x2",
        outputs="float[16,16] y",
        constants=GIVEN,
    )


def bias(scale: str, layer: str, behind: str = BEHIND) -> Example:
    weight = qdq("v2", "tile", "wz", axis=1, to="wd")
    return rows(weight, f"bd = DequantizeLinear <axis = 0> (b32, {scale})\n{layer}\n{behind}")


def matrix(axis: int, layer: str, behind: str = BEHIND) -> Example:
    return rows(qdq("v2", "ws", "wz", axis=axis, to="wd"), f"{layer}\n{behind}")


def blocks(layer: str, behind: str = "y = Sigmoid (c)") -> Example:
    """Four blocks and four rows."""
    weight = "wd = DequantizeLinear <axis = 0, block_size = 4> (w8, bs)\n"
    return Example(
        f"{FRONT}{weight}{layer}\n{behind}",
        inputs="float[4,16] x2",
        outputs="float[4,16] y",
        opset=21,
        constants=GIVEN,
    )


def batched(behind: str, zero: str = ", wz") -> Example:
    weight = f"wd = DequantizeLinear <axis = 2> (batched, ws{zero})\n"
    return Example(
        f"{FRONT}{weight}{MATMUL}\n{behind}",
        inputs="float[2,4,16] x2",
        outputs="float[2,4,16] y",
        constants=GIVEN,
    )


def filters(axis: int, rest: str = BEHIND, layer: str = "") -> Example:
    return image(qdq("w", "ws", "wz", axis=axis, to="wd"), (layer or conv(to="c")) + rest)


def pool(rest: str, front: str = "u128", behind: str = BEHIND) -> Example:
    attributes = f"kernel_shape = [2, 2], pads = [0, 0, 1, 1]{rest}"
    body = qdq("x", zero=front) + f"[pool] c = AveragePool <{attributes}> (xd)\n" + behind
    return Example(body, opset=21, constants=GIVEN)


GEMM = "[fc] c = Gemm (xd, wd, bd)"
MATMUL = "[fc] c = MatMul (xd, wd)"
BIASED = "[conv] c = Conv <pads = [1, 1, 1, 1]> (xd, wd, b)\n"
RELU_STAYS = "r = Relu (c)\n" + qdq("r", "sy", "u128", to="y")
DILATED = ", dilations = [1, 1]"

CHANGED = {
    "Gemm": (bias("other", GEMM), "SQ707"),
    "Gemm before float": (bias("other", GEMM, "y = Sigmoid (c)"), "SQ707"),
    "MatMul and Add": (bias("other", "[fc] m = MatMul (xd, wd)\nc = Add (bd, m)"), "SQ707"),
    "square Conv": (filters(1), "SQ708"),
    "Conv and Relu": (filters(1, "r = Relu (c)\n" + qdq("r", "sy", "u", to="y")), "SQ708"),
    "MatMul": (matrix(0, MATMUL), "SQ708"),
    "MatMul before float": (matrix(0, MATMUL, "y = Sigmoid (c)"), "SQ708"),
    "MatMul plus a scalar": (matrix(0, "[fc] m = MatMul (xd, wd)\nc = Add (m, half)"), "SQ708"),
    "MatMul of a Transpose": (
        matrix(1, "t = Transpose <perm = [1, 0]> (wd)\n[fc] c = MatMul (xd, t)"),
        "SQ708",
    ),
    "square Gemm": (matrix(0, "[fc] c = Gemm (xd, wd)"), "SQ708"),
    "square Gemm transB": (matrix(1, "[fc] c = Gemm <transB = 1> (xd, wd)"), "SQ708"),
    "MatMul and LeakyRelu": (matrix(0, MATMUL, "y = LeakyRelu (c)"), "SQ708"),
    "MatMul and a last Relu": (matrix(0, MATMUL, "y = Relu (c)"), "SQ708"),
    "blocks": (blocks(MATMUL), "SQ710"),
    "blocks before a pair": (blocks(MATMUL, BEHIND), "SQ710"),
    "weight of three axes": (batched(BEHIND, zero=""), "SQ710"),
    "weight of three axes with zero points": (batched("y = Sigmoid (c)"), "SQ710"),
    "pool with dilations of 1": (pool(DILATED), "SQ709"),
    "pool of int8": (pool(DILATED, "z"), "SQ709"),
    "pool before a Transpose": (
        pool(DILATED, behind="t = Transpose <perm = [0, 1, 3, 2]> (c)\n" + qdq("t", to="y")),
        "SQ709",
    ),
}
RIGHT = {
    "Gemm with its own scale": bias("own", GEMM),
    "Gemm with alpha": bias("other", "c = Gemm <alpha = 2.0> (xd, wd, bd)"),
    "Gemm and a Relu that stays": bias("other", GEMM, RELU_STAYS),
    "Gemm of float": bias("other", "c = Gemm (x2, wd, bd)"),
    "Conv with scales per output": filters(0),
    "Conv without a Q": filters(1, "y = Sigmoid (c)"),
    "Conv and a Relu that stays": filters(1, RELU_STAYS),
    "Conv with a float bias": filters(1, layer=BIASED),
    "ConvTranspose": filters(0, layer="c = ConvTranspose <pads = [1, 1, 1, 1]> (xd, wd)\n"),
    "MatMul with scales per output": matrix(1, MATMUL),
    "MatMul plus a float bias": matrix(0, "m = MatMul (xd, wd)\nc = Add (m, b)"),
    "MatMul and a Relu in float": matrix(0, MATMUL, "r = Relu (c)\ny = Sigmoid (r)"),
    "Gemm and a Relu in float": bias("other", GEMM, "r = Relu (c)\ny = Sigmoid (r)"),
    "three axes before float": batched("y = Sigmoid (c)", zero=""),
    "blocks of a Gemm": blocks("c = Gemm (xd, wd)"),
    "blocks and a float bias": blocks("m = MatMul (xd, wd)\nc = Add (m, b)"),
    "blocks after float": blocks("c = MatMul (x2, wd)"),
    "Gemm with a float bias": matrix(0, "c = Gemm (xd, wd, b)"),
    "pool without dilations": pool(""),
    "pool without a Q": pool(DILATED, behind="y = Sigmoid (c)"),
    "pool with two readers": pool(DILATED, behind=qdq("c", to="cd") + "y = Add (c, cd)"),
}


def outputs(model: ir.Model, *, optimize: bool = True) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    x = np.random.default_rng(0).standard_normal(given.shape).astype(np.float32)
    return np.asarray(session.run(None, {given.name: x})[0])


def is_changed(model: ir.Model) -> bool:
    """Whether the default optimizations give other values, by more than a step of the output, or a
    file that does not load."""
    plain = outputs(model, optimize=False)
    try:
        found = outputs(model)
    except (REFUSED.InvalidGraph, REFUSED.Fail):
        return True
    return bool(np.abs(found - plain).max() > 1.01 * GIVEN["sy"])


def codes(model: ir.Model) -> list[str]:
    return [one.code for one in lint_model(model, "onnxruntime") if one.code in CODES]


@pytest.mark.parametrize("name", CHANGED)
def test_a_fusion_that_loses_something_is_reported_and_avoided(name: str) -> None:
    example, code = CHANGED[name]
    model = example.model()
    assert codes(model) == [code]
    assert is_changed(model)
    plain = outputs(model, optimize=False)
    made = faithful(model)
    assert made is not None
    assert codes(made) == []
    assert not is_changed(made)
    np.testing.assert_allclose(outputs(made, optimize=False), plain, atol=1e-4)
    assert faithful(made) is None


@exact_int8
@pytest.mark.parametrize("name", RIGHT)
def test_a_layer_that_keeps_its_meaning_is_left_alone(name: str) -> None:
    model = RIGHT[name].model()
    assert codes(model) == []
    assert not is_changed(model)


@pytest.mark.parametrize("name", CHANGED)
def test_a_lowered_file_holds_nothing_that_loses_its_meaning(name: str) -> None:
    lowered = lower(CHANGED[name][0].model())
    assert codes(lowered) == []
    assert not is_changed(lowered)


def test_weights_whose_counts_do_not_agree_are_reported_too() -> None:
    narrow = Example(
        qdq("x", zero="u128") + qdq("narrow", "ws", "wz", axis=1, to="wd") + conv(to="c") + BEHIND,
        outputs="float[1,8,8,8] y",
        constants=GIVEN,
    ).model()
    assert codes(narrow) == ["SQ708"]
    with pytest.raises(Exception, match="QLinearConv"):
        outputs(narrow)
    made = faithful(narrow)
    assert made is not None
    np.testing.assert_allclose(outputs(made), outputs(made, optimize=False), atol=0.31)


@pytest.mark.parametrize(("dilations", "stays_float"), [("1, 1", False), ("2, 2", True)])
def test_dilations_of_1_are_left_out_and_others_keep_the_pool_in_float(
    dilations: str, stays_float: bool
) -> None:
    attributes = f"kernel_shape = [3, 3], pads = [2, 2, 2, 2], dilations = [{dilations}]"
    body = f"c = AveragePool <{attributes}> (xd)\nt = Slice (c, i, eight, axes)\n"
    example = Example(
        qdq("x", zero="u128") + body + qdq("t", "sy", "u128", to="y"),
        opset=21,
        constants={
            **GIVEN,
            "i": np.zeros(2, np.int64),
            "eight": np.full(2, 8, np.int64),
            "axes": np.array([2, 3], np.int64),
        },
    )
    made = faithful(example.model())
    assert made is not None
    assert ("Sum" in {node.op_type for node in made.graph}) == stays_float
    assert not is_changed(made)


def test_the_message_says_by_how_much_a_bias_is_off() -> None:
    found = lint_model(CHANGED["Gemm"][0].model(), "onnxruntime")
    (message,) = [one.message for one in found if one.code == "SQ707"]
    assert message == (
        "expected a bias in steps of the input's scale times the weight's, got 4 times that"
    )
