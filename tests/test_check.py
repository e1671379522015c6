"""The proof before a scan: what it finds, what it stops, and what stays as a warning."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from models import quantized, seeded
from onnx_models import qdq_file
from torch import nn
from torch.ao.quantization import FakeQuantize

from sensitivity.cli.main import main
from sensitivity.errors import ModelError
from sensitivity.preflight.check import unexecuted
from sensitivity.preflight.file import check_file
from sensitivity.records import Quantizer
from sensitivity.session import executed_only, quantized_model
from sensitivity.tasks.base import Task

ROOT = Path(__file__).parents[1]
TINY = Path(__file__).parent / "tasks" / "tiny.py"


def check(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, list[dict[str, str]]]]:
    with pytest.raises(SystemExit) as stop:
        main(["check", *map(str, words), "--format", "json"])
    return int(stop.value.code or 0), json.loads(capsys.readouterr().out)


class Auxiliary(nn.Module):
    """A head that only training executes, as GoogLeNet has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.aux = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x)).mean((2, 3))
        return self.fc(x) + self.aux(x) if self.training else self.fc(x)


def images(samples: int = 4) -> torch.Tensor:
    return torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def auxiliary() -> nn.Module:
    return quantized(seeded(Auxiliary), images())


def task_of(model: nn.Module) -> Task:
    data = {split: [(images(), torch.zeros(4))] for split in ("rank", "confirm", "holdout")}
    return Task(model, data, lambda outputs, targets: outputs[:, 0])


# Quantizers that are never executed. -------------------------------------------------------------------------------------


def test_quantizers_that_no_forward_executes_are_disabled_for_as_long_and_put_back() -> None:
    model = auxiliary()
    before = quantized_model(model).quantizers
    with executed_only(quantized_model(model), task_of(model)) as (source, left_out):
        assert {quantizer.layer for quantizer in source.quantizers} == {"conv", "fc"}
        assert {quantizer.layer for quantizer in left_out} == {"aux"}
    assert quantized_model(model).quantizers == before


def test_a_quantizer_that_only_a_later_batch_executes_is_kept() -> None:
    class Routed(Auxiliary):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.conv(x)).mean((2, 3))
            return self.fc(h) + self.aux(h) if x.min() < 0 else self.fc(h)

    model = quantized(seeded(Routed), images())
    batches = [(images().abs(), torch.zeros(4)), (images(), torch.zeros(4))]
    task = Task(model, dict.fromkeys(("rank", "confirm", "holdout"), batches), lambda outputs, targets: outputs[:, 0])
    with executed_only(quantized_model(model), task) as (_, left_out):
        assert left_out == ()


def test_an_executed_quantizer_without_a_range_is_refused_though_others_are_left_out() -> None:
    model = auxiliary()
    model.fc.input_quantizer.reset_amax()
    with (
        pytest.raises(ModelError, match=r"got 1 that are not \(fc.input_quantizer: amax is missing\)"),
        executed_only(quantized_model(model), task_of(model)),
    ):
        raise AssertionError("it was accepted")


def test_a_model_that_executes_none_of_its_quantizers_is_refused() -> None:
    class Past(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Auxiliary()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    model = Past().eval()
    model.net = auxiliary()
    with (
        pytest.raises(ModelError, match="got none of 6 executed"),
        executed_only(quantized_model(model), task_of(model)),
    ):
        raise AssertionError("it was accepted")


def test_what_is_never_executed_is_one_warning_for_each_layer() -> None:
    quantizers = [Quantizer(f"aux.{role}_quantizer", "aux", role, 8, None) for role in ("input", "weight")]
    (finding,) = unexecuted(quantizers)
    assert (finding.code, finding.severity, finding.where) == ("never-executed", "warning", "aux")
    assert "got aux.input_quantizer, aux.weight_quantizer of aux never executed" in finding.message


# What stays quantized. --------------------------------------------------------------------------------------------------


def test_a_fake_quantizer_of_another_toolkit_is_named() -> None:
    model = auxiliary()
    model.other = FakeQuantize()
    (finding,) = quantized_model(model).remaining()
    assert (finding.code, finding.severity, finding.where) == ("quantization-remains", "error", "other")
    assert "a FakeQuantize at other" in finding.message


# The verb. --------------------------------------------------------------------------------------------------------------


def test_a_sound_task_has_nothing_to_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys, f"{TINY}:task") == (0, {"ok": True, "findings": []})


def test_a_file_is_checked_without_data_on_inputs_that_are_made_up(tmp_path: Path) -> None:
    path = qdq_file(
        tmp_path / "q.onnx",
        "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) y = Relu(xd)",
        {"s": np.float32(0.1), "z": np.int8(0)},
    )
    assert [finding.code for finding in check_file(path)] == ["inputs-made-up"]


# The documents. ---------------------------------------------------------------------------------------------------------


def codes() -> set[str]:
    """First arguments of every `Finding(...)` of the check in the package."""
    calls = (
        node
        for file in (ROOT / "sensitivity").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding" and node.args
    )
    first = [call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)]
    return {code for code in first if re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", code)}


def test_every_code_is_documented_and_no_other() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", (ROOT / "docs/check.md").read_text(), flags=re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == codes()
