"""Our own exports break no rule of the runtime that they are made for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="exports a PyTorch model")
pytest.importorskip("modelopt", reason="exports a model calibrated by ModelOpt")

from models import Chain, batch, quantized, seeded  # noqa: E402

from sensitivity.export.lower import lower_file  # noqa: E402
from sensitivity.export.torch_model import export_files  # noqa: E402
from sensitivity.quantizers.base import layers  # noqa: E402
from sensitivity.quantizers.modelopt import ModelOptModel  # noqa: E402
from sensitivity.rules.lint import run_lint  # noqa: E402
from sensitivity.rules.targets import TENSORRT  # noqa: E402


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten convolutions in a row, exported whole and with the second one left out, with the plan that says so."""
    folder = tmp_path_factory.mktemp("export")
    source = ModelOptModel(quantized(seeded(lambda: Chain(channels=16)), batch()))
    units = {unit.name: unit for unit in layers(source.quantizers)}
    export_files(source, batch(), list(units.values()), ["conv2"], folder, fingerprint="test")
    plan = {"skip": ["conv2"], "quantizers": list(units["conv2"].quantizers)}
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


@pytest.mark.parametrize("file", ["model.int8.onnx", "model.partial.onnx"])
@pytest.mark.parametrize("target", TENSORRT)
def test_the_canonical_files_break_no_rule_for_tensorrt(exported: Path, file: str, target: str) -> None:
    assert run_lint(exported / file, target) == []


@pytest.mark.parametrize("file", ["model.int8.onnx", "model.partial.onnx"])
@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_a_lowered_file_breaks_no_rule_of_its_runtime(exported: Path, tmp_path: Path, file: str, target: str) -> None:
    lowered = lower_file(exported / file, target, tmp_path / file)  # type: ignore[arg-type]
    assert run_lint(lowered, target) == []


def test_the_canonical_file_is_slow_in_onnxruntime_and_the_rules_say_why(exported: Path) -> None:
    found = run_lint(exported / "model.int8.onnx", "onnxruntime")
    assert {finding.code for finding in found} == {"SQ701", "SQ702"}
    assert [finding.node for finding in found if finding.code == "SQ702"] == [f"conv{index}" for index in range(1, 11)]


def test_the_partial_file_agrees_with_its_plan_and_the_int8_file_does_not(exported: Path) -> None:
    plan = exported / "plan.json"
    assert run_lint(exported / "model.partial.onnx", "tensorrt-10", plan) == []
    found = run_lint(exported / "model.int8.onnx", "tensorrt-10", plan)
    assert {finding.code for finding in found} == {"SQ501"}
    assert sorted(finding.node for finding in found) == [
        "conv2.input_quantizer/QuantizeLinear",
        "conv2.weight_quantizer/QuantizeLinear",
    ]


def test_a_file_that_skips_more_than_the_plan_is_an_error(exported: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"skip": [], "quantizers": []}))
    found = run_lint(exported / "model.partial.onnx", "tensorrt-10", plan)
    assert [(finding.code, finding.severity, finding.node) for finding in found] == [("SQ502", "error", "conv2")]
