"""Several plans in one run directory: none replaces another, and each has its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.commands import TASK, verb

import sensitivity as sv
from sensitivity import api
from sensitivity.cli.main import main
from sensitivity.config import ExportSettings, PlanSettings, ScanSettings
from sensitivity.errors import NamesError, RunDirError
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.records import Plan, Target
from sensitivity.run_dir import RunDir
from sensitivity.steps.named_plans import plan_name

STRICT, LOOSE = ("--max-drop", "1pt"), ("--max-drop", "40pt")
STRICT_NAME = "max-drop-1pt-at-0.8"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run with a plan for one point."""
    out = tmp_path_factory.mktemp("plans") / "tiny"
    api.scan(ScanSettings(task=f"{TASK}:far_too_wide", out=out))
    api.plan(PlanSettings(directory=out, max_drop="1pt", no_recalibrate=True))
    return out


@pytest.fixture
def run(planned: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(planned, tmp_path / "tiny"))


def plan(run: Path, *words: str) -> int:
    return verb("plan", run, "--no-recalibrate", *words)


def target_of(file: Path) -> float:
    return float(json.loads(file.read_text())["target"]["drop"])


def of(run: Path, name: str | None = None) -> Plan:
    return RunDir(run, name).plan()


def test_a_plan_for_another_target_keeps_the_one_that_was_there(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = of(run)
    assert plan(run, *LOOSE) in (0, 2)
    assert of(run, STRICT_NAME) == before
    assert target_of(run / "plan.json") == pytest.approx(0.4)
    told = (
        "The plan that was here before, for at most 1.0 pt under float, is kept as "
        f"plans/{STRICT_NAME}.json."
    )
    assert told in capsys.readouterr().out
    assert told in of(run).notes


def test_a_plan_for_another_confidence_or_by_another_planner_keeps_it_too(run: Path) -> None:
    assert plan(run, *STRICT, "--confidence", "0.9") in (0, 2)
    assert plan(run, *STRICT, "--confidence", "0.9", "--planner", "rule") in (0, 2)
    assert plan(run, *STRICT, "--confidence", "0.9", "--planner", "exhaustive") in (0, 2)
    names = [STRICT_NAME, "max-drop-1pt-at-0.9", "max-drop-1pt-at-0.9-2"]
    assert list(RunDir(run).plan_names()) == names
    planners = [of(run, name).planner for name in names]
    assert planners[2] == "rule"
    assert planners[0] == planners[1] != "rule"


def test_the_same_plan_again_and_going_back_and_forth_leave_one_file_for_each_plan(
    run: Path,
) -> None:
    assert plan(run, *STRICT) in (0, 2)
    assert plan(run, *STRICT, "--search") in (0, 2)
    assert RunDir(run).plan_names() == ()
    for words in (LOOSE, STRICT, LOOSE, STRICT):
        assert plan(run, *words) in (0, 2)
    assert RunDir(run).plan_names() == (STRICT_NAME, "max-drop-40pt-at-0.8")


def test_a_named_plan_leaves_the_other_alone_and_is_answered_from_its_search(run: Path) -> None:
    before = (run / "plan.json").read_bytes()
    assert plan(run, *LOOSE, "--name", "loose") == 0
    assert (run / "plan.json").read_bytes() == before
    assert target_of(run / "plans/loose.json") == pytest.approx(0.4)
    assert "Chosen from" in of(run, "loose").notes[0]
    assert (run / "plans/loose/frontier.csv").exists()
    assert RunDir(run).plan_names() == ("loose",)


def test_each_verb_works_on_a_named_plan_and_leaves_the_files_of_the_other(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(run, *LOOSE, "--name", "loose") == 0
    assert of(run).skip != of(run, "loose").skip
    assert verb("export", run, "--name", "loose") == 0
    assert verb("bench", run, "--name", "loose", "--rounds", "5", "--threads", "1") == 0
    capsys.readouterr()
    assert verb("report", run, "--name", "loose") == 0
    folder = run / "plans/loose"
    assert capsys.readouterr().out.startswith(f"Report: {folder / 'report.html'}")
    assert not list(run.glob("model.*"))
    made = {"model.partial.onnx", "export.json", "bench.csv", "report.html"}
    assert made <= {file.name for file in folder.iterdir()}
    assert of(run, "loose").measured_ms is not None
    page = (folder / "report.html").read_text()
    assert "tiny, plan loose, in INT8" in page
    assert f"sensitivity export {run} --name loose" in page
    assert f"sensitivity bench {run} --name loose --runtime onnxruntime" in page
    assert f"sensitivity plan {run} --max-drop 1pt" not in page
    assert verb("export", run) == 0
    assert (run / "model.partial.onnx").read_bytes() != (folder / "model.partial.onnx").read_bytes()
    assert verb("plan", run, "--frontier", "--name", "loose") == 0


def test_a_named_plan_has_the_ranges_of_the_search_that_answers_for_it(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verb("plan", run, "--target", "0.8") == 0
    assert of(run).recalibrated
    monkeypatch.setattr(ModelOptModel, "other_ranges", None)  # nothing is calibrated again
    assert verb("plan", run, "--target", "0.79", "--name", "taken") == 0
    assert verb("plan", run, "--target", "0.78", "--name", "searched", "--search") == 0
    assert plan(run, "--target", "0.8") == 0
    mended = of(run, "target-0.8-at-0.8").recalibrated
    assert not of(run).recalibrated
    for name in ("taken", "searched"):
        assert of(run, name).recalibrated == mended
        assert (run / "plans" / name / "recalibration.json").exists()


@pytest.mark.parametrize("verb_", ["plan", "export", "bench", "report"])
@pytest.mark.parametrize(
    "name", ["", "..", "../other", "a/b", "/etc/a", "a\\b", ".hidden", "-a", " a", "a\n", "a" * 81]
)
def test_what_cannot_be_a_name_is_one_sentence(
    run: Path, verb_: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(verb_, run, f"--name={name}") == 1
    said = capsys.readouterr().err
    assert "Expected --name to be up to 80 letters, digits and . _ + -" in said
    assert said.count("\n") == 1
    assert not (run / "plans").exists()


def test_a_name_that_another_target_has_is_refused_before_the_search(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(run, *LOOSE, "--name", "mine") == 0
    before = (run / "plans/mine.json").read_bytes()
    capsys.readouterr()
    assert plan(run, *STRICT, "--name", "mine") == 1
    assert capsys.readouterr().err == (
        "Error: Expected --name to be new or of a plan for this target, got 'mine', a plan for at "
        "most 40.0 pt under float with a confidence of 0.8; choose another name, or remove "
        f"{run / 'plans/mine.json'}.\n"
    )
    assert (run / "plans/mine.json").read_bytes() == before
    assert plan(run, *LOOSE, "--name", "mine") == 0


@pytest.mark.parametrize("verb_", ["export", "bench", "report"])
def test_a_name_of_no_plan_is_reported_with_close_ones(
    run: Path, verb_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = f"make it with: sensitivity plan {run} --name fast"
    assert verb(verb_, run, "--name", "fast") == 1
    told = capsys.readouterr().err
    assert verb_ == "bench" or made in told
    assert plan(run, *LOOSE, "--name", "fast") == 0
    capsys.readouterr()
    assert verb(verb_, run, "--name", "fats") == 1
    assert verb_ == "bench" or "Close names: fast." in capsys.readouterr().err


def test_functions_take_the_name_and_results_keep_it(run: Path) -> None:
    loose = sv.plan(run, max_drop="40pt", no_recalibrate=True, name="loose")
    assert (loose.name, loose.skip) == ("loose", of(run, "loose").skip)
    exported = sv.export(loose)
    assert exported.files["partial"] == run / "plans/loose/model.partial.onnx"
    assert sv.bench(exported, rounds=5, threads=1).name == "loose"
    assert sv.report(loose) == run / "plans/loose/report.html"
    assert sv.report(run, name="loose") == run / "plans/loose/report.html"
    again = sv.plan(loose, max_drop="1pt", no_recalibrate=True)
    assert again.name is None
    with pytest.raises(NamesError, match="Expected name= to be up to 80 letters"):
        sv.plan(run, name="../x")


def test_what_is_missing_of_a_named_plan_is_made_as_printed(run: Path) -> None:
    place = RunDir(run, "loose")
    assert place.command_for("export.json") == f"sensitivity export {run} --name loose"
    with pytest.raises(RunDirError, match="make it with: sensitivity plan .* --name loose"):
        api.export(ExportSettings(directory=run, name="loose"))


@pytest.mark.parametrize(
    ("target", "full_scale", "name"),
    [
        (Target(drop=0.01), 1.0, "max-drop-1pt-at-0.8"),
        (Target(drop=0.25, confidence=0.95), 100.0, "max-drop-0.25pt-at-0.95"),
        (Target(relative=0.02), 1.0, "max-drop-2percent-at-0.8"),
        (Target(metric=0.51), 1.0, "target-0.51-at-0.8"),
        (Target(metric=-0.5), 1.0, "target--0.5-at-0.8"),
        (Target(metric=1e30), 1.0, "target-1e+30-at-0.8"),
    ],
)
def test_a_plan_that_nobody_named_is_called_by_its_target(
    target: Target, full_scale: float, name: str
) -> None:
    assert plan_name(target, full_scale) == name
    RunDir(Path(), name)


def test_foreign_files_beside_the_plans_are_no_plans(run: Path) -> None:
    (run / "plans").mkdir()
    for name in ("my notes.json", "README.md", ".hidden.json"):
        (run / "plans" / name).write_text("{}")
    assert RunDir(run).plan_names() == ()
    assert plan(run, *LOOSE) in (0, 2)


def test_help_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "--name" in capsys.readouterr().out
