"""The check before a scan: what it finds, what it stops, and what remains a warning."""

from __future__ import annotations

import ast
import json
import re
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.commands import verb
from support.models import quantized, seeded
from support.onnx_models import qdq_file
from torch import nn
from torch.ao.quantization import FakeQuantize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sensitivity.cli.main import main
from sensitivity.config import UnitChoices
from sensitivity.errors import CheckError, ModelError
from sensitivity.measure.study import Study
from sensitivity.opened import executed_only, quantized_model
from sensitivity.preflight.check import check as preflight
from sensitivity.preflight.check import refuse_errors, unexecuted, warnings_of
from sensitivity.preflight.data import data_findings
from sensitivity.preflight.file import check_file
from sensitivity.preflight.float_model import compared, not_comparable, tolerance_of
from sensitivity.preflight.metric import metric_findings, target_findings
from sensitivity.records import Finding, Quantizer, Target
from sensitivity.reporting.number_formats import format_of
from sensitivity.session import Session, open_session
from sensitivity.tasks.base import EvaluateTask, Task
from sensitivity.tasks.classification import Top1, answer_lost

ROOT = Path(__file__).parents[1]
TINY = Path(__file__).parent / "tasks" / "tiny.py"


def check(
    capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, dict[str, list[dict[str, str]]]]:
    with pytest.raises(SystemExit) as stop:
        main(["check", *map(str, words), "--format", "json"])
    return int(stop.value.code or 0), json.loads(capsys.readouterr().out)


class Auxiliary(nn.Module):
    """A head that is executed in training only, as GoogLeNet has."""

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
    return Task(model, data, first_logit)


def first_logit(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    return logits[:, 0]


# Quantizers that are never executed.
# -------------------------------------------------------------------------------------


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
    task = Task(
        model,
        dict.fromkeys(("rank", "confirm", "holdout"), batches),
        lambda outputs, targets: outputs[:, 0],
    )
    with executed_only(quantized_model(model), task) as (_, left_out):
        assert left_out == ()


def test_an_executed_quantizer_without_a_range_is_refused_though_others_are_left_out() -> None:
    model = auxiliary()
    model.fc.input_quantizer.reset_amax()
    with (
        pytest.raises(
            ModelError, match=r"got 1 that are not \(fc.input_quantizer: amax is missing\)"
        ),
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
    quantizers = [
        Quantizer(f"aux.{role}_quantizer", "aux", role, 8, None) for role in ("input", "weight")
    ]
    (finding,) = unexecuted(quantizers)
    assert (finding.code, finding.severity, finding.where) == ("never-executed", "warning", "aux")
    assert "got aux.input_quantizer, aux.weight_quantizer of aux never executed" in finding.message


# What stays quantized.
# --------------------------------------------------------------------------------------------------


def test_a_fake_quantizer_of_another_toolkit_is_named() -> None:
    model = auxiliary()
    model.other = FakeQuantize()
    (finding,) = quantized_model(model).remaining()
    assert (finding.code, finding.severity, finding.where) == (
        "quantization-remains",
        "error",
        "other",
    )
    assert "a FakeQuantize at other" in finding.message


# What cannot be exported.
# -----------------------------------------------------------------------------------------------


class FixedBatch(Auxiliary):
    """`len` is a plain number while tracing, so the graph holds the batch size that it was traced
    with."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)) + self.token.expand(len(x), -1))


def opened(
    model: nn.Module, folder: Path, float_model: nn.Module | None = None
) -> AbstractContextManager[Session]:
    """A session of a task with this model."""
    (folder / "task.py").write_text("import held\n\n\ndef task():\n    return held.task\n")
    held = ModuleType("held")
    held.task = replace(task_of(model), float_model=float_model)  # type: ignore[attr-defined]
    sys.modules["held"] = held
    return open_session(
        f"{folder / 'task.py'}:task", folder / "out", resume=False, choices=UnitChoices()
    )


def found_for(model: nn.Module, folder: Path) -> list[Finding]:
    with opened(model, folder) as session:
        return [finding for finding in preflight(session) if finding.code == "export-impossible"]


def test_a_model_that_can_be_exported_has_no_finding(tmp_path: Path) -> None:
    assert found_for(auxiliary(), tmp_path) == []


class Decided(Auxiliary):
    """Returns its choice and a number for the whole batch beside the logits."""

    def forward(self, x: torch.Tensor) -> Any:
        logits = super().forward(x)
        return logits, logits.argmax(1), logits.square().sum()


class ClassIds(Auxiliary):
    """Returns its choice alone."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x).argmax(1)


@pytest.mark.parametrize("kind", [Decided, ClassIds])
def test_outputs_may_be_integers_or_have_no_axes(kind: type[nn.Module], tmp_path: Path) -> None:
    assert found_for(quantized(seeded(kind), images()), tmp_path) == []


def test_a_graph_that_is_fixed_to_one_batch_size_is_reported_before_the_scan(
    tmp_path: Path,
) -> None:
    (finding,) = found_for(quantized(seeded(FixedBatch), images()), tmp_path)
    assert finding.severity == "warning"
    assert "traced with 2 samples, to give the model's outputs for 3" in finding.message
    assert "x.shape[0] instead of len(x)" in finding.fix


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG", "it quantizes blocks of"),
        ("FP8_PER_CHANNEL_PER_TOKEN_CFG", "its range is taken from each batch"),
    ],
)
def test_a_format_that_no_file_can_hold_is_reported_before_the_scan(
    config: str, why: str, tmp_path: Path
) -> None:
    (finding,) = found_for(in_config(config), tmp_path)
    assert re.search(why, finding.message)
    assert "scan, the plan and the report are still possible" in finding.message


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


PRINTED = ("markdown", "sarif", "junit")


def test_an_fp8_run_ends_with_a_plan_and_a_report_that_never_say_int8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "task.py").write_text("from test_check import fp8_task as task\n")
    out = tmp_path / "out"
    task = f"{tmp_path / 'task.py'}:task"
    assert not verb("run", task, "--out", str(out), "--rounds", "2", "--exact")
    said = capsys.readouterr().out
    assert "FP8 E4M3" in said
    verified = json.loads((out / "export.json").read_text())["files"]
    assert [check["variant"] for check in verified] == ["float", "int8", "partial"]
    for words in (["bench", "--rounds", "2"], *(["report", "--format", form] for form in PRINTED)):
        assert not verb(words[0], str(out), *words[1:])
    texts = [said, capsys.readouterr().out]
    texts += [(out / name).read_text() for name in ("report.html", "plan.json", "bench.json")]
    for text in texts:
        assert "INT8" not in text
    plan = json.loads((out / "plan.json").read_text())
    assert plan["formats"] == {
        name: "float" if name in plan["skip"] else "FP8 E4M3" for name in ("1", "3")
    }


def fp8_task() -> Task:
    net = seeded(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 128), nn.ReLU(), nn.Linear(128, 5))
    )
    x = torch.randn(120, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = net(x).argmax(1)

    import modelopt.torch.quantization as mtq

    model = mtq.quantize(net, mtq.FP8_DEFAULT_CFG, lambda model: model(x))
    data = {
        split: [(x[at : at + 40], y[at : at + 40])]
        for at, split in ((0, "rank"), (40, "confirm"), (80, "holdout"))
    }
    return Task(
        model,
        data,
        lambda outputs, targets: (outputs.argmax(1) == targets).double(),
        metric="top-1",
    )


# The task's own float model.
# --------------------------------------------------------------------------------------------


def float_finding(model: nn.Module, given: nn.Module) -> Finding:
    return compared(quantized_model(model), given, images())


def test_a_model_that_is_float_with_everything_disabled_is_proved() -> None:
    finding = float_finding(auxiliary(), seeded(Auxiliary))
    assert (finding.code, finding.severity) == ("float-proved", "note")


def test_the_first_module_that_differs_is_named() -> None:
    given = seeded(Auxiliary)
    with torch.no_grad():
        given.fc.weight[0, 0] += 0.1
    finding = float_finding(auxiliary(), given)
    assert (finding.code, finding.severity, finding.where) == ("float-differs", "error", "fc")
    assert "of their spread (allowed: 0.0001), first at fc" in finding.message


def test_batchnorm_that_was_folded_into_weights_is_the_same_float() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(self.conv(x))

    folded = seeded(Normed)
    folded.conv, folded.bn = fuse_conv_bn_eval(folded.conv, folded.bn), nn.Identity()
    assert float_finding(quantized(folded, images()), seeded(Normed)).code == "float-proved"


def test_the_quantized_model_itself_and_one_in_training_mode_are_refused() -> None:
    model = auxiliary()
    with pytest.raises(ModelError, match="to be another object than model"):
        float_finding(model, model)
    with pytest.raises(ModelError, match="in eval mode, got training mode"):
        float_finding(model, seeded(Auxiliary).train())


def test_the_class_of_a_model_is_no_model_to_compare_with() -> None:
    why = not_comparable(quantized_model(auxiliary()), Auxiliary, images())
    assert why == "it is the class Auxiliary, not an instance of it"


def test_outputs_of_another_shape_are_reported() -> None:
    given = seeded(Auxiliary)
    given.fc = nn.Linear(4, 6)
    assert "outputs of shapes [4, 5], not [4, 6]" in float_finding(auxiliary(), given).message


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("float32", 1e-4), ("float16", 1e-2), ("bfloat16", 5e-2)]
)
def test_a_coarser_type_of_weights_may_differ_by_more(kind: str, tolerance: float) -> None:
    assert tolerance_of(nn.Linear(2, 2), nn.Linear(2, 2).to(getattr(torch, kind))) == tolerance


def test_a_target_that_no_model_can_meet_is_refused_with_force_too() -> None:
    task = split_task(*[np.zeros(4)] * 3)
    findings = list(target_findings(np.ones(4), 1.0, Target(metric=1.5), task))
    with pytest.raises(CheckError, match="Give a smaller --target") as refused:
        refuse_errors(findings, force=True)
    assert "--force" not in str(refused.value)


def test_a_task_whose_float_model_differs_is_refused_and_with_force_warned_about(
    tmp_path: Path,
) -> None:
    given = seeded(Auxiliary)
    with torch.no_grad():
        given.conv.weight *= 2
    with opened(auxiliary(), tmp_path, given) as session:
        findings = preflight(session)
    assert findings[0].code == "float-differs"
    with pytest.raises(CheckError, match=r"first at conv\. .*add --force"):
        refuse_errors(findings[:1])
    refuse_errors(findings[:1], force=True)
    assert "first at conv" in warnings_of(findings)[0]


# The metric.
# --------------------------------------------------------------------------------------------------


@dataclass
class Answers:
    """The parts of a session that the check needs. Float gives `outputs` for every batch."""

    outputs: np.ndarray
    targets: Any
    score: Any = None
    aggregate: Any = None
    batch: int = 32
    soft: Any = None

    def found(self, target: Target | None = None) -> list[Finding]:
        places = range(0, len(self.outputs), self.batch)
        data = [
            (self.outputs[at : at + self.batch], self.targets[at : at + self.batch])
            for at in places
        ]
        chosen = {"score": self.score or Top1()} | (
            {"aggregate": self.aggregate} if self.aggregate else {}
        )
        task = Task(
            None,
            dict.fromkeys(("rank", "confirm", "holdout"), data),
            metric="top-1",
            soft=self.soft,
            **chosen,
        )
        measurer: Any = SimpleNamespace(
            aggregate=task.aggregate,
            outputs=lambda variants, inputs: iter([(0, inputs)]),
        )
        session = SimpleNamespace(
            task=task, has_samples=True, measurer=measurer, study=Study(measurer, (), ())
        )
        return list(metric_findings(session, target))  # type: ignore[arg-type]


def answers(right: float, classes: int = 10, n: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """One-hot outputs, and targets that a fraction `right` of them meets, the first ones."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    said = np.where(
        np.arange(n) < right * n, labels, (labels + 1 + rng.integers(0, classes - 1, n)) % classes
    )
    order = rng.permutation(n)
    return np.eye(classes)[said][order], labels[order]


def test_a_float_that_answers_well_has_no_finding() -> None:
    assert Answers(*answers(0.8)).found() == []


@pytest.mark.parametrize("right", [0.0, 0.08])
def test_a_float_at_or_below_chance_is_an_error(right: float) -> None:
    (finding,) = Answers(*answers(right)).found()
    assert (finding.code, finding.severity, finding.where) == ("metric-at-chance", "error", "rank")
    assert "no better than chance" in finding.message


def test_a_float_that_always_answers_the_same_is_an_error_though_mostly_right() -> None:
    labels = (np.arange(128) % 4 == 0).astype(int)
    outputs = np.tile([1.0, 0.0], (128, 1))
    (finding,) = Answers(outputs, labels).found()
    assert (
        "0.75 on 128 samples of rank, and 0.75 with the answers given for other samples"
        in finding.message
    )


def test_a_float_that_is_right_everywhere_is_above_chance_with_one_common_target() -> None:
    labels = (np.arange(128) % 40 == 39).astype(int)
    assert Answers(np.eye(2)[labels], labels).found() == []


def test_a_regression_that_ignores_its_inputs_is_an_error_and_a_good_one_is_not() -> None:
    wanted = np.random.default_rng(0).normal(size=(128, 1))
    score = lambda outputs, targets: -np.square(outputs - targets).mean(1)  # noqa: E731
    assert Answers(wanted * 0.9, wanted, score).found() == []
    (finding,) = Answers(np.zeros_like(wanted), wanted, score).found()
    assert finding.code == "metric-at-chance"


def test_a_score_that_looks_at_no_target_is_not_judged_by_other_samples_answers() -> None:
    outputs = np.random.default_rng(0).normal(size=(64, 3))
    assert (
        Answers(outputs, np.arange(64), lambda outputs, targets: outputs.mean(1) - 1).found() == []
    )


def test_samples_of_one_class_only_are_not_taken_for_a_constant_model() -> None:
    assert Answers(np.tile([1.0, 0.0], (64, 1)), np.zeros(64, int)).found() == []


def test_scores_that_are_not_finite_are_one_error() -> None:
    (finding,) = Answers(
        *answers(0.8), score=lambda outputs, targets: np.full(len(targets), np.nan)
    ).found()
    assert finding.code == "metric-fails"
    assert "finite scores on batch 0 of split 'rank'" in finding.message


class Unfitted:
    """A soft drop whose fit fails."""

    def __call__(self, float_outputs: Any, outputs: Any) -> np.ndarray:
        return np.zeros(len(outputs))

    def fit(self, outputs: Any, targets: Any) -> tuple[float, ...]:
        raise KeyError("temperature")

    def fitted(self, parameters: tuple[float, ...]) -> Unfitted:
        return self


@pytest.mark.parametrize(
    ("soft", "message"),
    [
        (answer_lost, "got shape (32,); leave soft=answer_lost out of the task."),
        (lambda before, after: np.zeros(3), "one finite number for each of 32 samples"),
        (Unfitted(), "Expected fit of task.soft to return, got KeyError: 'temperature'"),
    ],
)
def test_a_soft_drop_that_fails_is_found_before_the_scan(soft: Any, message: str) -> None:
    labels = answers(0.8)[1]
    answered = Answers(labels, labels, score=lambda outputs, targets: outputs == targets)
    assert answered.found() == []
    (finding,) = replace(answered, soft=soft).found()
    assert (finding.code, finding.severity) == ("metric-fails", "error")
    assert message in finding.message


def test_a_target_that_every_model_meets_is_an_error_only_where_the_metric_cannot_be_negative() -> (
    None
):
    scores, task = np.array([0.0, 0.0, 0.02]), split_task(*[np.zeros(4)] * 3)

    def codes_of(values, target):
        findings = target_findings(values, float(values.mean()), target, task)
        return [finding.code for finding in findings]

    assert codes_of(scores, Target(drop=0.01)) == ["target-below-zero"]
    assert codes_of(scores, Target(metric=-0.5)) == ["target-below-zero"]
    assert codes_of(scores, Target(relative=0.01)) == []
    assert codes_of(-scores, Target(drop=0.01)) == []
    assert codes_of(scores, Target(metric=1.0)) == []
    assert codes_of(scores, Target(metric=1.5)) == ["target-above-scale"]
    assert codes_of(scores + 3, Target(metric=3.5)) == [], "its largest value is unknown"


def test_a_relative_drop_of_a_negative_metric_lowers_the_floor() -> None:
    assert Target(relative=0.01).floor(-2.0) == pytest.approx(-2.02)
    assert Target(relative=0.01).floor(2.0) == pytest.approx(1.98)


# The splits.
# --------------------------------------------------------------------------------------------------


def split_task(rank: np.ndarray, confirm: np.ndarray, holdout: np.ndarray) -> Task:
    named = {"rank": rank, "confirm": confirm, "holdout": holdout}
    return Task(
        None,
        {name: [(part[:5], None), (part[5:], None)] for name, part in named.items()},
        lambda o, t: o,
    )


@pytest.mark.parametrize(("shared", "severity"), [(20, "error"), (10, "error"), (3, "warning")])
def test_samples_that_are_in_two_splits_are_found_whatever_batch_they_are_in(
    shared: int, severity: str
) -> None:
    values = np.random.default_rng(0).normal(size=(60, 4))
    confirm = np.concatenate([values[20 : 40 - shared], values[:shared]])
    (finding,) = data_findings(split_task(values[:20], confirm, values[40:]))
    assert (finding.code, finding.severity, finding.where) == (
        "splits-overlap",
        severity,
        "rank, confirm",
    )
    assert f"got {shared} that are in both" in finding.message


def test_a_split_of_a_few_samples_and_a_drop_below_one_of_them_are_reported() -> None:
    values = np.random.default_rng(0).normal(size=(43, 4))
    found = data_findings(split_task(values[:20], values[20:40], values[40:]), Target(drop=0.01))
    assert [(finding.code, finding.where) for finding in found] == [
        ("split-too-small", "holdout"),
        ("drop-below-one-sample", "confirm"),
    ]


@pytest.mark.parametrize("change", [{"soft": lambda one, other: 0}, {"aggregate": max}])
def test_a_metric_that_counts_no_answers_may_lose_less_than_one_sample(change: Any) -> None:
    values = np.random.default_rng(0).normal(size=(60, 4))
    task = replace(split_task(values[:20], values[20:40], values[40:]), **change)
    assert not list(data_findings(task, Target(drop=0.01)))


# The verb.
# --------------------------------------------------------------------------------------------------


def test_a_sound_task_has_nothing_to_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys, f"{TINY}:task") == (0, {"ok": True, "findings": []})


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (f"{TINY}:tusk", "Close names: task"),
        (f"{TINY}:uncalibrated", "conv3.input_quantizer: amax is missing"),
    ],
)
def test_what_cannot_be_opened_is_one_error_in_json_too(
    reference: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = check(capsys, reference)
    assert (code, found["ok"]) == (1, False)
    assert [finding["code"] for finding in found["findings"]] == ["unusable"]
    assert said in found["findings"][0]["message"]


def test_a_task_without_example_inputs_gets_a_plan_and_learns_why_there_are_no_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "task.py").write_text("from test_check import evaluated as task\n")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["run", f"{tmp_path / 'task.py'}:task", "--out", str(out), "--target", "0.5"])
    assert stop.value.code in (None, 0, 2)
    assert (
        "The model cannot be exported: the task has no example_inputs." in capsys.readouterr().out
    )
    assert (out / "report.html").exists()
    assert not list(out.glob("*.onnx"))


def evaluated() -> EvaluateTask:
    task = fp8_task()
    batches = [batch for split in task.data.values() for batch in split]
    return EvaluateTask(
        task.model, lambda model: float(np.mean([task.score(model(x), y) for x, y in batches]))
    )


def test_a_file_is_checked_without_data_on_inputs_that_are_made_up(tmp_path: Path) -> None:
    path = qdq_file(
        tmp_path / "q.onnx",
        "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) y = Relu(xd)",
        {"s": np.float32(0.1), "z": np.int8(0)},
    )
    assert [finding.code for finding in check_file(path)] == ["inputs-made-up"]


# The documents.
# --------------------------------------------------------------------------------------------------


def codes() -> set[str]:
    """First arguments of every `Finding(...)` of the check in the package."""
    calls = (
        node
        for file in (ROOT / "sensitivity").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Finding"
        and node.args
    )
    first = [call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)]
    return {code for code in first if re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", code)}


def test_every_code_is_documented_and_no_other() -> None:
    rows = re.findall(
        r"^\| `([a-z0-9-]+)` \|", (ROOT / "docs/check.md").read_text(), flags=re.MULTILINE
    )
    assert len(rows) == len(set(rows))
    assert set(rows) == codes()


def test_a_metric_of_0_that_is_no_mean_of_scores_is_a_warning() -> None:
    """A detector can find nothing on a handful of images without a mistake in the task."""
    scores, task = np.zeros((6, 2)), split_task(*[np.zeros(4)] * 3)
    (finding,) = target_findings(scores, 0.0, Target(drop=0.01), task)
    assert (finding.code, finding.severity) == ("target-below-zero", "warning")
