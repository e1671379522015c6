"""Lint for tensorrt-rtx agrees with its parser and builder: on both examples of every rule, and on
variants of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.scripts import load_script

from sensitivity.rules.catalog import RULES
from sensitivity.rules.examples import CANONICAL, WEIGHT, Array, Example, conv, qdq, weights
from sensitivity.rules.lint import lint_model
from sensitivity.rules.targets import RTX, TENSORRT
from sensitivity.runtimes import tensorrt_rtx_build as rtx

ROOT = Path(__file__).parents[1]
OTHER_VALUES = {"SQ101", "SQ104", "SQ105", "SQ501", "SQ502"}
"""Errors for what the file computes, or for a plan that it does not follow: RTX builds it."""
IN_FLOAT = {"SQ001", "SQ206", "SQ207", "SQ212", "SQ301", "SQ307", "SQ308"}
"""Findings for layers that RTX runs in float."""


rtx_rules = load_script("benchmarks/rtx_rules.py")
VERSION, ANSWERS = rtx_rules.read(rtx_rules.OUT.read_text())


def why_not_compared() -> str | None:
    if problem := rtx.unavailable():
        return problem
    import tensorrt_rtx

    here = tensorrt_rtx.__version__
    return None if here == VERSION else f"tensorrt_rtx is {here}, answers are of {VERSION}"


same_version = pytest.mark.skipif(why_not_compared() is not None, reason=str(why_not_compared()))


@same_version
def test_every_example_is_answered_as_in_the_table() -> None:
    assert rtx_rules.markdown(rtx_rules.answers(), VERSION) == rtx_rules.OUT.read_text(), (
        "run: python benchmarks/rtx_rules.py"
    )


def test_the_table_has_every_example() -> None:
    assert list(ANSWERS) == [name for name, _ in rtx_rules.examples()]
    assert {name for name, made in ANSWERS.items() if made == "not built"} == rtx_rules.NOT_BUILT


def codes(example: Example, *severities: str) -> set[str]:
    return {
        finding.code
        for finding in lint_model(example.model(), RTX)
        if not severities or finding.severity in severities
    }


@pytest.mark.parametrize(("name", "example"), list(rtx_rules.examples()))
def test_lint_and_the_builder_agree_on_the_examples(name: str, example: Example) -> None:
    agree(example, ANSWERS[name], four_bits=name.startswith("SQ211"))


def agree(example: Example, answer: str, *, four_bits: bool = False) -> None:
    """Errors where there is no engine, findings for layers in float where there are any."""
    if answer in ("refused", "not built"):
        assert codes(example, "error") != set()
        return
    assert codes(example, "error") <= OTHER_VALUES
    if answer != "built" and not four_bits:
        assert bool(codes(example) & IN_FLOAT) == ("fp32" in answer)


ONE = {"s1": np.array([0.05], np.float32), "z1": np.array([0], np.int8)}
MATRIX = {"m": weights(32, 16), "ms": np.full(16, 0.01, np.float32), "mz": np.zeros(16, np.int8)}
HALF = {"s16": np.array(0.05, np.float16), "h": np.full(16, 0.01, np.float16)}
X16 = "xq = QuantizeLinear (x, s16, z)\nxd = DequantizeLinear (xq, s16, z)\n"
TRANSPOSED = {
    "t": weights(16, 16, 1, 1),
    "t8": weights(16, 8, 1, 1),
    "ts": np.full(16, 0.01, np.float32),
    "tz": np.zeros(16, np.int8),
}
POOL = "<kernel_shape = [1, 1]>"


def with_output_type(number: int, zero: str = "") -> Example:
    q = f"xq = QuantizeLinear <output_dtype = {number}> (x, s{zero})\n"
    return Example(q + f"xd = DequantizeLinear (xq, s{zero})\n" + WEIGHT + conv(), opset=21)


def lone(operation: str, inputs: str = "xq") -> Example:
    return Example(
        f"xq = QuantizeLinear (x, s, z)\nxt = {operation} ({inputs})\n"
        "xd = DequantizeLinear (xt, s, z)\n" + WEIGHT + conv(),
        outputs="float y",
    )


def by_matrix(operation: str, scales: str = "s1, z1", axis: int | None = 1) -> Example:
    scale, zero = scales.split(", ")
    return Example(
        qdq("x", scale, zero) + qdq("m", "ms", "mz", axis=axis) + f"[fc] y = {operation} (xd, md)",
        inputs="float[4,32] x",
        outputs="float[4,16] y",
        constants={**ONE, **MATRIX},
    )


def half(body: str, opset: int = 19) -> Example:
    return Example(body, opset=opset, constants=HALF)


def transposed(weight: str, rest: str = "") -> Example:
    return Example(
        qdq("x") + weight + f"[up] y = ConvTranspose <strides = [1, 1]{rest}> (xd, td)",
        constants=TRANSPOSED,
    )


def vector(body: str, constants: dict[str, Array] | None = None) -> Example:
    return Example(body, constants={**ONE, **(constants or {})})


SIBLINGS: dict[str, tuple[Example, str, str | None]] = {
    "vector-scale": (vector(qdq("x", "s1", "z1") + WEIGHT + conv()), "fp32", "SQ212"),
    "vector-scale-with-axis": (
        vector(qdq("x", "s1", "z1", axis=0) + WEIGHT + conv()), "fp32", "SQ212"),
    "vector-scale-in-front-of-a-pooling": (
        vector(qdq("x", "s1", "z1") + f"p = MaxPool {POOL} (xd)\n" + WEIGHT + conv("p")),
        "fp32", "SQ212"),
    "vector-scale-of-the-residual": (
        vector(qdq("x") + WEIGHT + conv(to="c") + qdq("x", "s1", "z1", to="rd")
               + "y = Add (c, rd)"), "fp32", "SQ212"),
    "vector-scale-of-a-weight": (
        vector(qdq("x") + qdq("w", "s1", "z1") + conv()), "int8", None),
    "vector-scale-of-a-matmul": (by_matrix("MatMul"), "int8", None),
    "vector-scale-of-a-gemm": (by_matrix("Gemm"), "int8", None),
    "scalar-scale-of-a-matmul": (by_matrix("MatMul", "s, z"), "int8", None),
    "matmul-without-axis": (by_matrix("MatMul", "s, z", axis=None), "int8", None),
    "conv-without-axis": (Example(qdq("x") + qdq("w", "ws", "wz") + conv()), "fp32", "SQ207"),
    "transposed-per-channel": (transposed(qdq("t", "ts", "tz", axis=1)), "fp32", "SQ307"),
    "transposed-per-tensor": (transposed(qdq("t")), "fp32", "SQ307"),
    "transposed-in-groups": (
        transposed(qdq("t8", to="td"), ", group = 2"), "fp32", "SQ307"),
    "output-type-uint8": (with_output_type(2), "refused", "SQ104"),
    "output-type-int16": (with_output_type(5), "refused", "SQ104"),
    "output-type-int8": (with_output_type(3), "int8", None),
    "output-type-uint8-with-zero-point": (with_output_type(2, ", u"), "int8", "SQ104"),
    "half-scale": (half(X16 + WEIGHT + conv()), "refused", "SQ213"),
    "half-scale-in-opset-17": (half(X16 + WEIGHT + conv(), opset=17), "refused", "SQ213"),
    "half-scale-of-the-weight": (
        half(qdq("x") + qdq("w", "h", "wz", axis=0) + conv()), "refused", "SQ213"),
    "half-scale-in-front-of-an-add": (half(X16 + "y = Add (xd, x)"), "refused", "SQ213"),
    "half-scale-in-front-of-a-pooling": (
        half(X16 + f"p = MaxPool {POOL} (xd)\n" + WEIGHT + conv("p")), "refused", "SQ213"),
    "half-scales-and-a-float-bias": (
        half(X16 + qdq("w", "h", "wz", axis=0)
             + "[conv] y = Conv <pads = [1, 1, 1, 1]> (xd, wd, b)"), "refused", "SQ213"),
    "half-scale-of-the-q-alone": (
        half(X16.replace("(xq, s16", "(xq, s") + WEIGHT + conv()), "int8", "SQ105"),
    "half-scales-of-both": (half(X16 + qdq("w", "h", "wz", axis=0) + conv()), "int8", None),
    **{f"lone-{name.lower()}": (lone(name), "refused", "SQ014")
       for name in ("GlobalAveragePool", "Sigmoid", "Softmax <axis = 1>", "Tanh", "Elu", "Exp")},
    **{f"lone-{name.lower()}": (lone(name), "int8", "SQ013")
       for name in ("Relu", "LeakyRelu", f"AveragePool {POOL}", "Identity", "HardSigmoid")},
    "lone-add": (lone("Add", "xq, xq"), "int8", "SQ013"),
    "msft-gelu": (
        Example(CANONICAL.body.replace("y = Conv", "c = Conv") + "y = com.microsoft.Gelu (c)"),
        "int8", None),
}  # fmt: skip
"""By name: the file, what RTX makes of it, and the rule that says so; None for no finding."""


@pytest.mark.parametrize("name", SIBLINGS)
def test_lint_sees_what_the_builder_was_seen_to_do(name: str) -> None:
    example, answer, code = SIBLINGS[name]
    agree(example, answer)
    if code is None:
        assert codes(example) == set()
    else:
        assert code in codes(example)


@same_version
@pytest.mark.parametrize("name", SIBLINGS)
def test_the_builder_does_what_lint_says(name: str, tmp_path: Path) -> None:
    example, answer, _ = SIBLINGS[name]
    assert rtx_rules.answer(example, tmp_path / "file.onnx") == answer


def test_a_finding_says_what_was_seen_and_has_the_severity_of_its_target() -> None:
    example = next(rule for rule in RULES if rule.code == "SQ207").bad
    (there,) = [found for found in lint_model(example.model(), RTX) if found.code == "SQ207"]
    assert there.severity == "warning"
    assert there.message == (
        "expected axis 0 for the weight of Conv conv, got 1; TensorRT-RTX 1.7.1 builds it and runs "
        "the layer in float"
    )
    for target in TENSORRT:
        found = [one for one in lint_model(example.model(), target) if one.code == "SQ207"]
        assert [(one.severity, one.message) for one in found] == [
            ("error", "expected axis 0 for the weight of Conv conv, got 1")
        ]


def test_what_was_seen_only_there_is_no_finding_elsewhere() -> None:
    alone = {rule.code for rule in RULES if rule.targets == (RTX,)}
    assert alone == {"SQ014", "SQ212", "SQ213", "SQ307"}
