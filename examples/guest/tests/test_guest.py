"""The guest, as it is installed: run with `sensitivity` and this package on the path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch
from guest.rule import NO_OWNER
from guest.source import ToyModel
from guest.toolkit import quantize

import sensitivity as sv
from sensitivity.cli.main import main
from sensitivity.doctor import additions
from sensitivity.rules.lint import lint_model
from sensitivity.testing.reference import LAYERS, reference_inputs, reference_network
from sensitivity.testing.sources import SourceConformance


class TestToy(SourceConformance):
    source_name = "toy"

    def make(self) -> Any:
        return quantize(reference_network(), reference_inputs())

    def uncalibrate(self, model: Any) -> str:
        model.stem.input_rounder.limit.fill_(float("nan"))
        return "stem.input_rounder"


def batches(samples: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x = reference_inputs(samples, seed)
    with torch.no_grad():
        return [(part, reference_network()(part).argmax(1)) for part in x.split(20)]


def top1(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) == targets).double()


def test_the_whole_job_runs_on_a_model_of_the_guest_with_its_planner(tmp_path: Path) -> None:
    model = quantize(reference_network(), reference_inputs())
    model.down.input_rounder.limit *= 40  # as an outlier in the calibration data makes it
    data = {
        split: batches(80, seed) for seed, split in enumerate(("rank", "confirm", "holdout"), 1)
    }
    run = sv.run(
        sv.Task(model, data, top1), out=tmp_path, planner="one_by_one", rounds=3, threads=1
    )
    assert run.info.source == "toy"
    assert (run.record.planner, run.met, run.skip[:1]) == ("one_by_one", True, ("down",))
    sizes = [len(step.skip) for step in run.record.path]
    assert sizes == list(range(len(run.skip) + 1)), "one more at a time"
    assert set(run.to_frame()["unit"]) == set(LAYERS)
    partial = onnx.load(run.files["partial"])
    assert sum(node.op_type == "QuantizeLinear" for node in partial.graph.node) > 0
    source = ToyModel(model)
    assert len(source.quantizers) == 2 * len(LAYERS), "the model is as it was"
    with run.apply(model):
        assert not model.down.input_rounder.active
    assert model.down.input_rounder.active


def test_lint_applies_the_rule_of_the_guest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = [
        finding.code for finding in lint_model(ir.from_proto(NO_OWNER.bad.proto()), "openvino")
    ]
    assert "GUEST001" in codes
    codes = [
        finding.code for finding in lint_model(ir.from_proto(NO_OWNER.good.proto()), "openvino")
    ]
    assert "GUEST001" not in codes
    onnx.save(NO_OWNER.bad.proto(), tmp_path / "model.onnx")
    with pytest.raises(SystemExit):
        main(["lint", str(tmp_path / "model.onnx"), "--for", "openvino", "--format", "sarif"])
    assert '"ruleId": "GUEST001"' in capsys.readouterr().out


def test_doctor_names_what_the_guest_brings() -> None:
    found = {
        (one.kind, one.name): one.problem
        for one in additions()
        if one.package == "sensitivity-guest 0.1.0"
    }
    assert found == {
        ("planner", "one_by_one"): None,
        ("source of quantized models", "toy"): None,
        ("lint rule", "GUEST001"): None,
    }
