"""`import sensitivity as sv`: the verbs as functions, for a task made in a program and for one in a
file."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from support.models import seeded

import sensitivity as sv
from sensitivity import optional
from sensitivity.cli import lazy
from sensitivity.cli.api_reference import markdown, signatures
from sensitivity.errors import (
    JournalMismatch,
    ModelError,
    NamesError,
    RunDirError,
    SensitivityError,
    TaskError,
)
from sensitivity.results import Run
from sensitivity.run_dir import RunDir
from sensitivity.tasks.fingerprint import judges_digest
from sensitivity.tasks.load import load_task

ROOT = Path(__file__).parents[1]
TASK = Path(__file__).parent / "tasks" / "tiny.py"
SETTINGS: dict[str, Any] = {"target": 1.0, "no_recalibrate": True, "rounds": 5, "threads": 1}


def made() -> sv.Task:
    """A new task each time, equal to the one before."""
    task = load_task(f"{TASK}:far_too_wide")
    assert isinstance(task, sv.Task)
    return task


def images(samples: int) -> torch.Tensor:
    return torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return sv.run(made(), out=tmp_path_factory.mktemp("python") / "tiny", **SETTINGS)


def test_a_run_of_a_task_in_memory_leaves_what_a_run_of_its_file_leaves(
    done: Run, tmp_path: Path
) -> None:
    of_file = sv.run(f"{TASK}:far_too_wide", out=str(tmp_path / "file"), **SETTINGS)
    assert done.skip == of_file.skip != ()
    pd.testing.assert_frame_equal(done.to_frame(), of_file.to_frame())
    names = {path.name for path in done.directory.iterdir()}
    assert names == {path.name for path in of_file.directory.iterdir()}
    assert done.files["partial"].read_bytes() == of_file.files["partial"].read_bytes()
    assert done.report == done.directory / "report.html"


def test_the_table_of_a_run_has_a_row_for_each_layer_and_says_which_are_left_out(done: Run) -> None:
    table = done.to_frame()
    assert table["unit"][table["left_out"]].tolist() == [
        name for name in table["unit"] if name in done.skip
    ]
    assert sorted(table["unit"]) == ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc"]
    assert done.scan.to_frame().equals(table.drop(columns="left_out"))
    saved = pd.read_csv(done.directory / "scan.csv")
    assert done.scan.to_frame()["effect"].tolist() == pytest.approx(saved["effect"].tolist())
    assert (
        done.frontier()["layers"].tolist()
        == pd.read_csv(done.directory / "frontier.csv")["layers"].tolist()
    )
    assert done.bench is not None
    assert (
        done.bench.to_frame()["file"].tolist()
        == pd.read_csv(done.directory / "bench.csv")["file"].tolist()
    )
    assert done.export is not None
    assert done.export.to_frame()["variant"].tolist() == ["float", "int8", "partial"]


def test_what_is_shown_in_a_notebook_is_escaped(done: Run) -> None:
    page = done._repr_html_()
    assert f"<b>Accuracy: {done.verdict.accuracy}</b>" in page
    assert all(f"<td>{name}</td>" in page for name in done.to_frame()["unit"])
    wicked = dataclasses.replace(done.verdict, accuracy_sentence="<script>alert(1)</script>")
    shown = dataclasses.replace(
        done, record=dataclasses.replace(done.record, verdict=wicked)
    )._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    checked = sv.check(sv.Task(made().model, {}, lambda outputs, targets: [0]))
    assert not checked.ok
    assert "task.data to have the splits" in checked._repr_html_()


def test_run_json_and_the_report_say_that_the_task_came_from_python_and_how_to_repeat_it(
    done: Run,
) -> None:
    info = json.loads((done.directory / "run.json").read_text())
    call = (
        f"sensitivity.run(task, out='{done.directory}', target=1.0, no_recalibrate=True, "
        "threads=1, rounds=5)"
    )
    assert info["task"] == info["settings"]["task"] == "<Python>"
    assert info["commands"]["run"] == info["commands"]["scan"] == call
    page = done.report.read_text()
    assert "&lt;Python&gt;" in page
    assert "sensitivity.run(task, out=" in page


def test_a_resumed_run_of_an_equal_task_measures_nothing_again(done: Run) -> None:
    again = sv.run(made(), out=done.directory, resume=True, **SETTINGS)
    assert again.info.samples == done.info.samples
    assert again.skip == done.skip
    assert not any("has changed" in warning for warning in again.info.warnings)


def tolerant(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    right = outputs.argmax(1) == targets
    return right.double()


def generous(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(targets))


class Rate:
    """Not seen by the fingerprint: an object of a class, after a module."""

    value = 1.0


def opaque(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) == targets).double() * sys.modules[__name__].Rate.value


def test_a_task_that_is_written_otherwise_and_measures_the_same_goes_on_with_a_warning(
    tmp_path: Path,
) -> None:
    sv.scan(made(), out=tmp_path)
    found = sv.scan(dataclasses.replace(made(), score=tolerant), out=tmp_path, resume=True)
    assert any(
        "The task has changed since this run began." in warning for warning in found.info.warnings
    )


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda task: dataclasses.replace(task, score=generous), "other scores of the"),
        (
            lambda task: dataclasses.replace(task, aggregate=lambda scores: 0.5),
            "another metric from the same scores",
        ),
        (lambda task: dataclasses.replace(task, metric="top-5"), 'metric was "top-1", is "top-5"'),
        (
            lambda task: dataclasses.replace(
                task, data={**task.data, "rank": task.data["confirm"]}
            ),
            "data.rank.first was",
        ),
        (
            lambda task: dataclasses.replace(task, model=load_task(f"{TASK}:task").model),
            "model was",
        ),
    ],
    ids=["score", "aggregate", "metric", "data", "model"],
)
def test_another_task_is_refused_with_the_difference(
    done: Run, change: Callable[[sv.Task], sv.Task], difference: str
) -> None:
    before = (done.directory / "journal.jsonl").read_bytes()
    with pytest.raises(JournalMismatch, match=difference) as caught:
        sv.run(change(made()), out=done.directory, resume=True, **SETTINGS)
    assert str(caught.value).endswith("hoose another out=.") or "choose another out=" in str(
        caught.value
    )
    assert (done.directory / "journal.jsonl").read_bytes() == before


def test_a_task_whose_functions_read_the_same_is_measured_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = dataclasses.replace(made(), score=opaque)
    sv.scan(task, out=tmp_path)
    before = judges_digest(task)
    monkeypatch.setattr(Rate, "value", 0.5)
    assert judges_digest(task) == before
    with pytest.raises(JournalMismatch, match="Expected the changed task to measure what it did"):
        sv.scan(task, out=tmp_path, resume=True)


def scaled(by: float) -> Callable[[Any, Any], Any]:
    return lambda outputs, targets: (outputs.argmax(1) == targets).double() * by


def by_default(outputs: Any, targets: Any, *, rate: float = 0.5) -> Any:
    return rate


def by_default_too(outputs: Any, targets: Any, *, rate: float = 0.25) -> Any:
    return rate


class Judge:
    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, outputs: Any, targets: Any) -> Any:
        return self.rate


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (scaled(1.0), scaled(1.0), scaled(2.0)),
        (Judge(1.0), Judge(1.0), Judge(2.0)),
        (Judge(1.0).__call__, Judge(1.0).__call__, Judge(2.0).__call__),
        (by_default, by_default, by_default_too),
        (tolerant, tolerant, generous),
    ],
    ids=["closure", "object", "method", "default", "code"],
)
def test_functions_are_told_apart_by_their_code_and_the_values_that_they_hold(
    one: Any, same: Any, other: Any
) -> None:
    digests = [judges_digest(sv.Task(None, {}, score)) for score in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]


def test_a_function_has_the_same_fingerprint_in_another_process(warm_bin: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); import sensitivity as sv\n"
        "from sensitivity.tasks.fingerprint import judges_digest; from sensitivity.tasks.load "
        "import load_task\n"
        f"print(judges_digest(load_task({str(TASK)!r} + ':far_too_wide')))"
    )
    command = [warm_bin / "python", "-c", code]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert said.stdout.split()[-1] == judges_digest(made())


def test_steps_go_on_from_a_result_or_from_a_directory_with_the_task(tmp_path: Path) -> None:
    scanned = sv.scan(made(), out=tmp_path)
    planned = sv.plan(scanned, target=1.0, no_recalibrate=True)
    exported = sv.export(tmp_path, task=made())
    assert exported.files["partial"].exists()
    benched = sv.bench(planned, rounds=3, threads=1, accuracy=True)
    assert benched.record.judged is not None
    assert sv.report(str(tmp_path)) == tmp_path / "report.html"
    commands = RunDir(tmp_path).info().commands
    assert commands["export"] == f"sensitivity.export('{tmp_path}', task=task)"
    assert (
        commands["bench"]
        == f"sensitivity.bench('{tmp_path}', task=task, threads=1, rounds=3, accuracy=True)"
    )


def test_another_target_is_planned_from_the_directory_alone_and_a_search_asks_for_the_task(
    done: Run,
) -> None:
    assert sv.plan(done.directory, target=1.0, no_recalibrate=True).skip == done.skip
    with pytest.raises(RunDirError) as caught:
        sv.plan(str(done.directory), target=1.0, search=True)
    assert str(caught.value).endswith(
        f"as in sensitivity.plan({str(done.directory)!r}, task=task)."
    )


def test_an_unfinished_run_says_how_to_go_on_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sensitivity.api._plan", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sv.run(made(), out=tmp_path, **SETTINGS)
    call = (
        f"sensitivity.run(task, out='{tmp_path}', resume=True, target=1.0, no_recalibrate=True, "
        "threads=1, rounds=5)"
    )
    assert call in (RunDir(tmp_path).unfinished() or "")
    assert RunDir(tmp_path).command_for("plan.json") == f"sensitivity.plan('{tmp_path}', task=task)"
    with pytest.raises(RunDirError, match=r"make it with: sensitivity\.plan\('"):
        sv.export(tmp_path)


def test_inside_the_with_the_model_is_as_the_plan_was_judged_and_as_it_was_after_it(
    done: Run,
) -> None:
    model, x = made().model, images(16)
    with torch.no_grad():
        before = model(x)
        with done.apply(model) as same:
            assert same is model
            inside = model(x)
            off = {
                name
                for name, module in model.named_modules()
                if getattr(module, "_disabled", False)
            }
        with pytest.raises(ZeroDivisionError), done.apply(model):
            raise ZeroDivisionError
        after = model(x)
    assert set(done.quantizers) <= off
    assert torch.equal(before, after)
    assert not torch.equal(before, inside)


def test_applied_for_good_the_model_gives_what_the_exported_file_gives(done: Run) -> None:
    import onnxruntime

    model, x = made().model, images(16)
    with torch.no_grad(), done.apply(model):
        inside = model(x)
    done.apply_permanently(model)
    with torch.no_grad():
        outputs = model(x)
    assert torch.equal(outputs, inside)
    session = onnxruntime.InferenceSession(done.files["partial"])
    (file,) = session.run(None, {"input": x.numpy()})
    assert abs(file - outputs.numpy()).max() < 1e-4
    left = {
        name
        for name, module in model.named_modules()
        if getattr(module, "_disabled", True) is False
    }
    assert left == {quantizer.name for quantizer in done.info.quantizers} - set(done.quantizers)
    with pytest.raises(
        ModelError, match=rf"got {len(done.quantizers)} that are missing or disabled"
    ):
        done.apply_permanently(model)


def test_recalibrated_ranges_are_part_of_what_is_applied(tmp_path: Path) -> None:
    sv.scan(made(), out=tmp_path)
    plan = sv.plan(tmp_path, task=made(), target=0.8)
    assert plan.record.recalibrated
    model, x = made().model, images(16)
    with torch.no_grad():
        before = model(x)
        with plan.apply(model):
            inside = model(x)
        assert torch.equal(model(x), before)
        plan.apply_permanently(model)
        assert torch.equal(model(x), inside)
    assert not torch.equal(before, inside)
    state = {name: value for name, value in model.state_dict().items() if name.endswith("_amax")}
    one = plan.record.ranges[0]
    assert state[f"{one.quantizer}._amax"].flatten().tolist() == pytest.approx(list(one.amax))


def test_a_model_without_the_quantizers_of_the_run_is_refused(done: Run) -> None:
    other = load_task(f"{TASK}:residual").model
    with (
        pytest.raises(
            ModelError, match="Expected a model with the 14 quantizers of the run enabled"
        ),
        done.apply(other),
    ):
        raise AssertionError("it was accepted")
    with (
        pytest.raises(ModelError, match="Expected a model with quantizers"),
        done.apply(seeded(torch.nn.Identity)),
    ):
        raise AssertionError("it was accepted")


def test_an_evaluate_task_in_memory_runs_too(tmp_path: Path) -> None:
    task = load_task(f"{TASK}:evaluate_only")
    assert isinstance(task, sv.EvaluateTask)
    assert sv.scan(task, out=tmp_path).to_frame()["rank"].tolist() == list(range(1, 8))
    assert sv.scan(task, out=tmp_path, resume=True).info.task == "<Python>"


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (lambda out: sv.run(made(), out=out, max_dorp="1pt"), NamesError, "a setting of "
                                                                          "sensitivity.run to "
                                                                          "match exactly one "),
        (lambda out: sv.run(made(), out=out, max_dorp="1pt"), NamesError, "Close names: max_drop"),
        (lambda out: sv.run(made()), SensitivityError, "Expected a run directory for a task made "
                                                       "in Python, got none"),
        (lambda out: sv.run(made(), out=3), SensitivityError, "Expected out= of sensitivity.run to "
                                                              "be a path or None, got 3."),
        (lambda out: sv.scan(3, out=out), TaskError, "Expected a Task or EvaluateTask of "
                                                     "sensitivity, or the path of its file"),
        (lambda out: sv.scan("nope.py", out=out), TaskError, "Expected a Python file at nope.py, "
                                                             "got nothing there"),
        (lambda out: sv.scan(made(), out=out, exact=1), SensitivityError,
         "exact= of sensitivity.scan to be True or False, got 1"),
        (lambda out: sv.scan(made(), out=out, samples=0.5), SensitivityError, "samples= of "
                                                                              "sensitivity.scan to "
                                                                              "be a whole number"),
        (lambda out: sv.scan(made(), out=out, samples=True), SensitivityError, "to be a whole "
                                                                               "number or None, "
                                                                               "got True"),
        (lambda out: sv.scan(made(), out=out, mode="both"), SensitivityError, "to be 'disable' or "
                                                                              "'enable' or None, "
                                                                              "got 'both'"),
        (lambda out: sv.scan(made(), out=out, group=3), SensitivityError, "to be a name or a list "
                                                                          "of names, got 3"),
        (lambda out: sv.run(made(), out=out, planner="gredy"), NamesError, "planner= of "
                                                                           "sensitivity.run to "
                                                                           "match exactly one"),
        (lambda out: sv.run(made(), out=out, rounds=0), SensitivityError, "Expected rounds= to be "
                                                                          "at least 1, got 0"),
        (lambda out: sv.run(made(), out=out, target=0.5, max_drop="1pt"), SensitivityError,
         "one of target= and max_drop="),
        (lambda out: sv.plan(made()), NamesError, "got a Task; scan or run it first"),
        (lambda out: sv.plan(out / "none", task=made()), RunDirError, "run.json to exist, got "
                                                                      "nothing there"),
        (lambda out: sv.plan(out, task=3), TaskError, "Expected a Task or EvaluateTask"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_in_the_words_of_python(
    tmp_path: Path, call: Callable[[Path], Any], kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind) as caught:
        call(tmp_path)
    assert sentence in str(caught.value)
    assert isinstance(caught.value, sv.SensitivityError)
    assert "\n" not in str(caught.value)
    assert " --" not in str(caught.value)


def test_a_used_directory_says_what_to_add_in_python(done: Run) -> None:
    with pytest.raises(RunDirError, match="add resume=True to continue it, or choose another out="):
        sv.run(made(), out=done.directory)


def test_verbs_stay_functions_whatever_is_imported_and_packages_stay_packages() -> None:
    code = """
import sensitivity as sv
import sensitivity.measure.measurer, sensitivity.exporters.trace, sensitivity.cost.table
from sensitivity.measure.measurer import Measurer
assert all(callable(getattr(sv, name)) for name in sv.__all__ if name != "__version__")
assert set(sv.__all__) <= set(dir(sv))
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_import_stays_light() -> None:
    code = (
        "import sys, sensitivity; print({'numpy', 'pandas', 'torch', 'click'} & set(sys.modules))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert said.stdout.strip() == "set()"


def test_no_verb_imports_torch_before_its_task_does() -> None:
    code = (
        "import sys, sensitivity.api, sensitivity.verbs\n"
        "print({'torch', 'onnxscript', 'openvino', 'ultralytics'} & set(sys.modules))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert said.stdout.strip() == "set()"


def test_an_optional_module_that_nobody_knows_is_refused() -> None:
    with pytest.raises(AttributeError, match="'sensitivity.optional' has no attribute 'numpy'"):
        optional.numpy  # noqa: B018
    with pytest.raises(AttributeError, match="'sensitivity.cli.lazy' has no attribute 'numpy'"):
        lazy.numpy  # noqa: B018


def test_public_signatures_are_those_that_were_promised() -> None:
    promised = (ROOT / "tests/public_signatures.txt").read_text()
    difference = "\n".join(
        difflib.unified_diff(
            promised.splitlines(), signatures().splitlines(), "promised", "now", n=0
        )
    )
    assert not difference, (
        f"\n{difference}\nA removed or changed line breaks programs of others. Where it is meant: "
        "python -m sensitivity.cli.api_reference signatures > tests/public_signatures.txt"
    )


def test_the_api_reference_is_what_the_docstrings_say() -> None:
    said = "run: python -m sensitivity.cli.api_reference > docs/api.md"
    assert (ROOT / "docs/api.md").read_text() == markdown(), said


def test_the_example_ends_with_a_table_a_file_and_the_same_outputs(
    warm_bin: Path, tmp_path: Path
) -> None:
    command = [warm_bin / "python", ROOT / "examples/10_python/digits.py", tmp_path / "run"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
    # Which layer it is follows the trained weights, which differ between processors.
    assert re.search(r"^Left out: conv\d$", said, flags=re.MULTILINE), said
    assert "The same outputs: True" in said
    assert (tmp_path / "run/model.partial.onnx").exists()
    assert not list(tmp_path.rglob("*.py"))
