"""The proof before a scan: what it finds, what it stops, and what stays as a warning."""

from __future__ import annotations

import ast
import json
import re
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from models import quantized, seeded
from onnx_models import qdq_file
from torch import nn
from torch.ao.quantization import FakeQuantize

from sensitivity.cli.main import main
from sensitivity.config import UnitChoices
from sensitivity.errors import ModelError
from sensitivity.preflight.check import check as preflight
from sensitivity.preflight.check import unexecuted
from sensitivity.preflight.file import check_file
from sensitivity.records import Finding, Quantizer
from sensitivity.reporting.number_formats import format_of
from sensitivity.session import Session, executed_only, open_session, quantized_model
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


# What cannot be exported. -----------------------------------------------------------------------------------------------


class FixedBatch(Auxiliary):
    """`len` is a plain number while tracing, so the graph holds the batch size that it was traced with."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)) + self.token.expand(len(x), -1))


def opened(model: nn.Module, folder: Path) -> AbstractContextManager[Session]:
    """A session of a task with this model."""
    (folder / "task.py").write_text("import held\n\n\ndef task():\n    return held.task\n")
    held = ModuleType("held")
    held.task = task_of(model)  # type: ignore[attr-defined]
    sys.modules["held"] = held
    return open_session(f"{folder / 'task.py'}:task", folder / "out", resume=False, choices=UnitChoices())


def found_for(model: nn.Module, folder: Path) -> list[Finding]:
    with opened(model, folder) as session:
        return [finding for finding in preflight(session) if finding.code == "export-impossible"]


def test_a_model_that_can_be_exported_has_no_finding(tmp_path: Path) -> None:
    assert found_for(auxiliary(), tmp_path) == []


def test_a_graph_that_is_fixed_to_one_batch_size_is_told_before_the_scan(tmp_path: Path) -> None:
    (finding,) = found_for(quantized(seeded(FixedBatch), images()), tmp_path)
    assert finding.severity == "warning"
    assert "traced with 2 samples, to give the model's outputs for 3" in finding.message
    assert "x.shape[0] instead of len(x)" in finding.fix


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("FP8_DEFAULT_CFG", r"its number format is \(4, 3\)"),
        ("INT4_BLOCKWISE_WEIGHT_ONLY_CFG", "it quantizes blocks of"),
    ],
)
def test_a_format_without_an_integer_grid_is_told_before_the_scan(config: str, why: str, tmp_path: Path) -> None:
    (finding,) = found_for(in_config(config), tmp_path)
    assert re.search(why, finding.message)
    assert "scan, the plan and the report can be had all the same" in finding.message


def in_config(name: str) -> nn.Module:
    import modelopt.torch.quantization as mtq

    net = seeded(lambda: nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 5)))
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 128), net).eval()
    return mtq.quantize(net, getattr(mtq, name), lambda model: model(x))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("INT8_DEFAULT_CFG", "INT8"),
        ("FP8_DEFAULT_CFG", "FP8 E4M3"),
        ("INT4_BLOCKWISE_WEIGHT_ONLY_CFG", "INT4 in blocks of 128"),
        ("INT8_SMOOTHQUANT_CFG", "INT8"),
    ],
)
def test_formats_are_named(config: str, said: str) -> None:
    assert format_of(quantized_model(in_config(config)).quantizers) == said


def test_an_fp8_run_ends_with_a_plan_and_a_report_that_never_say_int8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "task.py").write_text("from test_check import fp8_task as task\n")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["run", f"{tmp_path / 'task.py'}:task", "--out", str(out), "--rounds", "2", "--exact"])
    assert not stop.value.code
    said = capsys.readouterr().out
    assert "The model cannot be exported: " in said
    assert "FP8 E4M3" in said
    assert not list(out.glob("*.onnx"))
    for text in (said, (out / "report.html").read_text(), (out / "plan.json").read_text()):
        assert "INT8" not in text


def fp8_task() -> Task:
    net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 128), nn.ReLU(), nn.Linear(128, 5)))
    x = torch.randn(120, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = net(x).argmax(1)

    import modelopt.torch.quantization as mtq

    model = mtq.quantize(net, mtq.FP8_DEFAULT_CFG, lambda model: model(x))
    data = {
        split: [(x[at : at + 40], y[at : at + 40])] for at, split in ((0, "rank"), (40, "confirm"), (80, "holdout"))
    }
    return Task(model, data, lambda outputs, targets: (outputs.argmax(1) == targets).double(), metric="top-1")


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
