"""The fidelity benchmark on its smallest model: its files, and that the canonical file has the
model's accuracy."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import pytest
from support.processors import exact_int8

pytest.importorskip("torch")
pytest.importorskip("modelopt")
pytest.importorskip("openvino")
if "SENSITIVITY_ASSETS" not in os.environ:
    pytest.skip(
        "SENSITIVITY_ASSETS is not set: no images and weights to compare on",
        allow_module_level=True,
    )


@exact_int8
def test_files_of_resnet20_have_the_accuracy_of_the_simulated_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    file = tmp_path / "fidelity.json"
    importlib.import_module("fidelity").main(
        ["--models", "resnet20", "--batches", "2", "--json", str(file)]
    )
    rows = json.loads(file.read_text())["rows"]
    assert [row["file"] for row in rows] == ["simulated", "canonical", "openvino", "onnxruntime"]
    assert {row["images"] for row in rows} == {200}
    assert rows[0]["share_of_quantization"] == rows[0]["difference_points"] == 0
    assert 0 < rows[1]["share_of_quantization"] < 0.5
    assert rows[1]["pieces"] == 20
    assert rows[1]["worst_piece"] < 1e-3
    assert all(abs(row["difference_points"]) <= 2 for row in rows)
    assert "| resnet20 | canonical | onnxruntime | 200 |" in file.with_suffix(".md").read_text()
