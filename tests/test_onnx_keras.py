"""TensorFlow's fake-quant operations as tf2onnx writes them are a source like any other."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from support.commands import verb
from support.scripts import load_script

from sensitivity.opened import quantized_model
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.onnx.model import OnnxModel

EXAMPLE = Path(__file__).parents[1] / "examples" / "05_keras_qat"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sklearn")
    module = load_script(EXAMPLE / "data.py")
    path = tmp_path_factory.mktemp("keras") / "digits.npz"
    module.save(str(path))
    return path


def test_every_fake_quant_op_on_an_activation_is_a_quantizer() -> None:
    source = quantized_model(OnnxModel(EXAMPLE / "digits_qat.onnx"))
    units = {unit.name: unit.quantizers for unit in layers(source.quantizers)}
    assert list(units) == [
        "Conv__42",
        "Conv__48",
        "digits_1/add_2",
        "digits_1/MaxPool2d",
        "digits_1/MatMul",
    ]
    assert len(units["digits_1/add_2"]) == 2, "the residual reads what the convolution reads"
    grids = [source.grid(quantizer.name) for quantizer in source.quantizers]
    assert {(grid.low, grid.high) for grid in grids} == {(0, 255)}
    assert any(grid.zero_point for grid in grids), "asymmetric"


def test_the_range_that_is_too_wide_is_found_and_another_one_mends_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = (
        "--data",
        data,
        "--max-drop",
        "1pt",
        "--rounds",
        "5",
        "--threads",
        "1",
        "--out",
        out,
    )
    assert verb("run", EXAMPLE / "digits_qat.onnx", *arguments) == 0
    scan = pd.read_csv(out / "scan.csv")
    assert scan["unit"][0] == "Conv__48"
    assert scan["low"][0] > 0.05
    said = capsys.readouterr().out
    assert "with nothing left out" in said
    assert re.search(r"In INT8 with new ranges[^:]*: .*Conv__48[^;]*\(", said)
    assert (out / "model.partial.onnx").exists()
    assert verb("plan", out, "--max-drop", "1pt", "--no-recalibrate") == 0
    assert "Left out: Conv__48." in capsys.readouterr().out
