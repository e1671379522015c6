"""Rules for QNN, on files that ONNX Runtime's own helper for QNN makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from sensitivity.rules.examples import Example, conv, qdq
from sensitivity.rules.lint import lint_model, run_lint
from sensitivity.rules.qnn import WIDE

NET = (
    "[a] a = Conv <pads = [1, 1, 1, 1]> (x, w, b)\n[b] c = Relu (a)\n"
    "[c] d = Conv <pads = [1, 1, 1, 1]> (c, w)\n[d] e = Sigmoid (d)\n"
    "[e] f = Add (e, c)\n[f] g = MaxPool <kernel_shape = [2, 2]> (f)\n"
    "[g] h = Conv <pads = [1, 1, 1, 1]> (g, w)\n[h] y = ReduceMean <axes = [2, 3]> (h)"
)


def made_for_qnn(folder: Path, **settings: Any) -> Path:
    """The file of `quantize` with these settings of get_qnn_qdq_config."""
    quantization = pytest.importorskip("onnxruntime.quantization", reason="makes the files")
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = self.drawn()

        def drawn(self) -> Iterator[dict[str, np.ndarray]]:
            draw = np.random.default_rng(0)
            for _ in range(2):
                yield {"x": draw.standard_normal((1, 16, 8, 8)).astype(np.float32)}

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    types = quantization.QuantType
    settings = {"activation_type": types.QUInt8, "weight_type": types.QUInt8} | settings
    onnx.save(Example(NET, outputs="float[1,16,1,1] y").proto(), folder / "float.onnx")
    config = get_qnn_qdq_config(folder / "float.onnx", Reader(), **settings)
    quantization.quantize(folder / "float.onnx", folder / "qnn.onnx", config)
    return folder / "qnn.onnx"


def sixteen_bits(name: str) -> dict[str, Any]:
    """Settings that give one tensor 16 bits."""
    quantization = pytest.importorskip("onnxruntime.quantization", reason="makes the files")
    return {"init_overrides": {name: [{"quant_type": quantization.QuantType.QUInt16}]}}


def found_in(path: Path) -> list[tuple[str, str]]:
    return [(finding.code, finding.node) for finding in run_lint(path, "qnn")]


@pytest.mark.parametrize("keep", [False, True], ids=["relu-in-the-pair", "relu-kept"])
def test_files_of_8_bits_are_clean(tmp_path: Path, keep: bool) -> None:
    assert found_in(made_for_qnn(tmp_path, keep_removable_activations=keep)) == []


@pytest.mark.parametrize("tensor", list("cdefgh"))
def test_files_of_8_and_16_bits_are_clean(tmp_path: Path, tensor: str) -> None:
    assert found_in(made_for_qnn(tmp_path, **sixteen_bits(tensor))) == []


def test_formats_that_meet_in_an_operation_are_found(tmp_path: Path) -> None:
    file = made_for_qnn(tmp_path, **sixteen_bits("d"), add_qtype_converts=False)
    assert found_in(file) == [("SQ801", "c"), ("SQ801", "d")]


def test_a_sum_of_two_formats_is_found_and_a_product_with_weights_of_another_is_not() -> None:
    sums = Example(
        qdq("x", "s16", "h") + qdq("x2", zero="u128") + "[add] a = Add (xd, x2d)\n"
        + qdq("a", "s16", "h", to="y"),
        inputs="float[1,16,8,8] x, float[1,16,8,8] x2",
        opset=21,
        constants=WIDE,
    )  # fmt: skip
    assert [one.node for one in lint_model(sums.model(), "qnn")] == ["add"]
    products = Example(sums.body.replace("Add", "MatMul"), sums.inputs, sums.outputs, 21, WIDE)
    assert lint_model(products.model(), "qnn") == []


@pytest.mark.parametrize(("zero", "codes"), [("u", []), ("u128", ["SQ802"])])
def test_a_relu_belongs_to_a_convolution_if_its_pair_cuts_at_zero(
    zero: str, codes: list[str]
) -> None:
    body = qdq("x", zero="u128") + "wd = DequantizeLinear (w8, ws, u128)\n" + conv(to="c")
    body += "r = Relu (c)\n" + qdq("r", zero=zero, to="y")
    assert [one.code for one in lint_model(Example(body, constants=WIDE).model(), "qnn")] == codes


@pytest.mark.parametrize(("body", "is_found"), [
    ("y = Conv <pads = [1, 1, 1, 1]> (xd, w)", True),
    ("y = Conv <auto_pad = \"SAME_UPPER\"> (xd, w)", True),
    ("y = Conv <pads = [0, 0, 0, 0]> (xd, v)", False),
    ("y = Conv <pads = [1, 1, 1, 1]> (x, w)", False),
    ("y = ConvTranspose <pads = [1, 1, 1, 1]> (xd, w)", True),
    ("y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (xd)", False),
    ("y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (xd)",
     True),
    ("y = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (xd)", False),
])  # fmt: skip
def test_what_pads_in_float_is_found(body: str, is_found: bool) -> None:
    example = Example(qdq("x", zero="u128") + body)
    assert [one.code for one in lint_model(example.model(), "qnn")] == ["SQ802"] * is_found


def test_what_pads_in_float_behind_16_bits_is_not_found() -> None:
    body = qdq("x", "s16", "h") + "y = Conv <pads = [1, 1, 1, 1]> (xd, w)"
    assert lint_model(Example(body, opset=21, constants=WIDE).model(), "qnn") == []
