"""The verbs, from a task file to a report, as a user runs them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from rich.console import Console
from support.commands import LAYERS, TASK, verb
from support.reporting_samples import complete
from support.warm import DIED, PID_FILE

from sensitivity import doctor
from sensitivity.cli.render import no_layer_stands_out, ranking_table
from sensitivity.config import UnitChoices
from sensitivity.distribution import install_line
from sensitivity.exporters.verification import Verification
from sensitivity.journal.journal import Journal
from sensitivity.measure.raced import Budget
from sensitivity.results import benched
from sensitivity.run_dir import RunDir
from sensitivity.session import Session, open_session
from sensitivity.steps.report import report_data


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny task."""
    out = tmp_path_factory.mktemp("run") / "tiny"
    assert (
        verb(
            "run",
            f"{TASK}:task",
            "--target",
            "0.95",
            "--rounds",
            "10",
            "--threads",
            "1",
            "--out",
            out,
        )
        == 0
    )
    return out


def test_a_run_leaves_every_file_that_others_rely_on(done: Path) -> None:
    for name in ("run.json", "journal.jsonl", "scan.csv", "plan.json", "bench.csv", "report.html"):
        assert (done / name).stat().st_size > 0, name
    for variant in ("float", "int8", "partial"):
        assert (done / f"model.{variant}.onnx").stat().st_size > 0
    scan = pd.read_csv(done / "scan.csv")
    assert sorted(scan["unit"]) == LAYERS
    assert {"rank", "unit", "effect", "low", "high", "n"} <= set(scan.columns)
    assert scan["rank"].tolist() == list(range(1, 8))
    assert scan["effect"].is_monotonic_decreasing
    assert (scan["n"] == 40).all()


def test_the_plan_file_holds_the_accuracy_of_each_split(done: Path) -> None:
    plan = json.loads((done / "plan.json").read_text())
    assert plan["met"] is True
    assert set(plan["skip"]) <= set(LAYERS)
    for name in ("float", "quantized", "confirm", "holdout"):
        assert {"value", "low", "high"} <= set(plan["metric"][name])
    assert plan["metric"]["float"]["value"] == 1.0
    assert plan["metric"]["confirm"]["value"] >= 0.95


def test_the_plan_s_file_is_judged_in_the_runtime_where_it_is_timed(done: Path) -> None:
    bench = json.loads((done / "bench.json").read_text())
    assert bench["accuracy"].keys() == {"int8", "partial"}
    judged = bench["judged"]
    assert (judged["runtime"], judged["differs"]) == ("onnxruntime", False)
    assert judged["level"] == bench["accuracy"]["partial"]
    verdict = json.loads((done / "plan.json").read_text())["verdict"]
    assert "holdout in ONNX Runtime" in verdict["accuracy_sentence"]
    assert verdict["speed"] in ("faster", "slower", "no different", "same file")


def test_a_run_that_was_moved_is_reported_with_its_files_where_they_are(
    done: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(done, moved)
    timings = report_data(moved).timings
    assert {Path(timing.file).parent for timing in timings} == {moved}
    assert set(map(Path, benched(moved, None).to_frame()["file"])) == {
        Path(timing.file) for timing in timings
    }
    (moved / "model.float.onnx").unlink()
    timings = report_data(moved).timings
    assert {Path(timing.file).parent for timing in timings} == {moved, done}


def test_a_resumed_run_keeps_count_of_the_samples_it_has_spent(done: Path) -> None:
    before = json.loads((done / "run.json").read_text())["samples"]
    arguments = ("--target", "0.95", "--rounds", "5", "--threads", "1", "--out", done, "--resume")
    assert verb("run", f"{TASK}:task", *arguments) == 0
    assert json.loads((done / "run.json").read_text())["samples"] == before > 0


def test_a_scan_that_is_gone_on_with_keeps_what_is_known_of_later_steps(done: Path) -> None:
    before = json.loads((done / "run.json").read_text())
    assert verb("scan", f"{TASK}:task", "--out", done, "--resume") == 0
    after = json.loads((done / "run.json").read_text())
    for step in ("plan", "export", "bench"):
        assert after["commands"][step] == before["commands"][step]
        assert after["seconds"][step] == before["seconds"][step]
    assert after["commands"]["scan"].startswith("sensitivity scan")


def test_another_target_is_planned_without_forwarding_known_variants_again(done: Path) -> None:
    before = json.loads((done / "run.json").read_text())["samples"]
    assert verb("plan", done, "--target", "0.95") == 0
    assert json.loads((done / "run.json").read_text())["samples"] == before


def test_a_target_above_the_largest_value_of_the_metric_is_refused(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = (done / "plan.json").read_bytes()
    assert verb("plan", done, "--target", "1.5") == 1
    assert (
        "Expected --target to be at most 1, the largest value of top-1, got 1.5; float has 1 on "
        "rank. Give a smaller --target, or a drop from float with --max-drop."
        in capsys.readouterr().err
    )
    assert (done / "plan.json").read_bytes() == plan


def test_files_of_an_earlier_plan_are_neither_benched_nor_reported(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "moved"
    shutil.copytree(done, out)
    plan = json.loads((out / "plan.json").read_text())
    (out / "plan.json").write_text(json.dumps(plan | {"skip": ["conv1"]}))
    assert verb("bench", out, "--rounds", "5") == 1
    assert (
        "got those of an earlier plan; make them again with: sensitivity export"
        in capsys.readouterr().err
    )
    assert verb("report", out) == 0
    page = (out / "report.html").read_text()
    assert "are of an earlier plan and are not shown" in page
    assert "model.partial" not in page


def test_splits_of_the_same_samples_are_refused_and_with_force_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("scan", f"{TASK}:same_splits", "--out", tmp_path / "same")
    said = "Expected the splits rank and confirm to hold different samples, got 40 that are in both"
    assert verb(*arguments) == 1
    assert said in capsys.readouterr().err
    assert verb(*arguments, "--force") == 0  # into the same folder, where nothing was measured
    assert said in capsys.readouterr().out


def test_a_float_no_better_than_chance_is_warned_about_once(tmp_path: Path) -> None:
    """The first samples of `rank` show it before the scan, and all of them after it."""
    out = tmp_path / "chance"
    assert verb("scan", f"{TASK}:mislabelled", "--out", out, "--force") == 0
    told = [text for text in RunDir(out).info().warnings if "no better than chance" in text]
    assert len(told) == 1
    assert "got 0 on all of rank (40 samples" in told[0]


def test_a_place_that_cannot_take_a_run_is_refused_before_the_task_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert verb("scan", "nowhere.py", "--out", tmp_path / "file") == 1
    assert "to be a folder, got a file; choose another --out" in capsys.readouterr().err


def test_each_verb_works_alone_on_a_run_directory(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "alone"
    assert verb("scan", f"{TASK}:task", "--out", out) == 0
    assert verb("plan", out, "--target", "0.95") == 0
    assert verb("export", out, "--for", "all") == 0
    for name in ("int8.onnxruntime", "partial.openvino", "fp16.tensorrt", "fp16"):
        assert (out / f"model.{name}.onnx").exists(), name
    assert verb("bench", out, "--rounds", "5", "--threads", "1", "--accuracy") == 0
    assert "top-1 measured in onnxruntime on holdout: float 100.0 %" in capsys.readouterr().out
    assert pd.read_csv(out / "layers.csv")["variant"].nunique() == 3, (
        "nothing is left out: two are one file"
    )
    assert verb("report", out) == 0
    assert (out / "scan.csv").read_bytes() == (done / "scan.csv").read_bytes()
    assert "sensitivity bench" in (out / "report.html").read_text()

    lowered = set(RunDir(out).read("export.json", Verification).lowered)
    assert verb("export", out, "--for", "openvino") == 0
    again = RunDir(out).read("export.json", Verification)
    assert set(again.lowered) == lowered, "the files for other runtimes are as they were"
    (out / "model.int8.tensorrt.onnx").unlink()
    assert verb("export", out, "--for", "openvino") == 0
    again = RunDir(out).read("export.json", Verification)
    assert set(again.lowered) == lowered - {"model.int8.tensorrt.onnx"}


def test_a_task_with_only_evaluate_is_served_and_learns_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluate"
    code = verb(
        "run",
        f"{TASK}:evaluate_only",
        "--target",
        "0.9",
        "--rounds",
        "5",
        "--threads",
        "1",
        "--out",
        out,
    )
    assert code == 0
    printed = capsys.readouterr().out
    assert "no intervals" in printed
    assert "The task has no holdout evaluation" in printed
    scan = pd.read_csv(out / "scan.csv")
    assert scan["low"].isna().all()
    assert (out / "model.partial.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("run", f"{TASK}:task", "--accuracy", "--no-accuracy"),
            "Expected one of --accuracy and --no-accuracy, got both",
        ),
        (("run", "nope.py"), "Expected a Python file at nope.py, got nothing there"),
        (("run", f"{TASK}:tusk"), "Close names: task"),
        (
            ("run", f"{TASK}:uncalibrated"),
            "got 1 that are not (conv3.input_quantizer: amax is missing)",
        ),
        (("run", f"{TASK}:empty_split"), "confirm"),
        (("run", f"{TASK}:metric_raises"), "got KeyError: 'labels'"),
        (
            ("run", f"{TASK}:task", "--max-drop", "1"),
            "Expected --max-drop in points (1pt) or relative to float (1%)",
        ),
        (
            ("run", f"{TASK}:task", "--max-drop", "1pt", "--target", "0.5"),
            "Expected one of --target and --max-drop",
        ),
        *(
            (
                ("run", f"{TASK}:task", "--formats", formats),
                "Expected --formats to be int8,float, with int16, fp8 or both between them, got "
                f"'{formats}'",
            )
            for formats in ("int8,float,fp8", "int16,int8,float", "int8,fp8,fp8,float", "fp8")
        ),
        (("run", f"{TASK}:task", "--runtime", "onnxrt"), "Close names: onnxruntime"),
        (("run", f"{TASK}:task", "--runtime", "tensorrt"), "tensorrt"),
        (("plan", "nowhere"), "make it with: sensitivity scan TASK --out nowhere\n"),
        (("run", f"{TASK}:task", "--mode", "both"), "'both' is not one of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value[-2:])),
)
def test_a_mistake_is_one_sentence_and_exit_code_1(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = () if arguments[0] == "plan" else ("--out", str(tmp_path / "out"))
    assert verb(*arguments, *place) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_a_used_run_directory_is_not_overwritten(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (done / "journal.jsonl").read_bytes()
    assert verb("run", f"{TASK}:task", "--out", done) == 1
    assert "add --resume to continue it" in capsys.readouterr().err
    assert (done / "journal.jsonl").read_bytes() == before


def test_the_journal_of_another_task_is_refused_with_the_difference_named(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb("run", f"{TASK}:evaluate_only", "--out", done, "--resume") == 1
    assert "data.confirm.batches was 10, is 1" in capsys.readouterr().err


TALKS = """
from tasks import tiny


def score(outputs, targets):
    print("scored a batch")
    return tiny.top1(outputs, targets)


def task():
    own = tiny.task()
    return type(own)(own.model, own.data, score)
"""


def test_what_a_metric_prints_is_no_part_of_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "task.py").write_text(TALKS)
    assert verb("scan", tmp_path / "task.py", "--out", tmp_path / "r") == 0
    printed = capsys.readouterr()
    assert "scored a batch" in printed.err
    assert "scored a batch" not in printed.out
    assert "95 % interval" in printed.out


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Journal.add_batch

    def interrupted(self: Journal, split: str, batch: int, digest: str) -> None:
        if batch == 3:
            raise KeyboardInterrupt
        real(self, split, batch, digest)

    monkeypatch.setattr(Journal, "add_batch", interrupted)
    assert verb("scan", f"{TASK}:task", "--out", tmp_path / "r") == 130
    assert (
        f"continue with: sensitivity scan {TASK}:task --out {tmp_path / 'r'} --resume"
        in capsys.readouterr().err
    )
    monkeypatch.undo()
    assert verb("scan", f"{TASK}:task", "--out", tmp_path / "r", "--resume") == 0


def test_a_scan_killed_at_five_moments_and_resumed_equals_the_uninterrupted_one(
    done: Path, tmp_path: Path, warm_bin: Path
) -> None:
    out = tmp_path / "killed"
    words = ["scan", f"{TASK}:task", "--out", str(out), "--resume"]
    command = [str(warm_bin / "sensitivity"), *words]
    for lines in (3, 20, 45, 70, 100):
        assert kill_at(command, out / "journal.jsonl", lines), f"ended before {lines} lines"
    subprocess.run(command, check=True, capture_output=True)
    assert (out / "scan.csv").read_bytes() == (done / "scan.csv").read_bytes()


def kill_at(command: list[str], journal: Path, lines: int) -> bool:
    """Start the command, and SIGKILL its process once the journal has this many lines. Gives
    whether it was still running."""
    told = journal.parents[1] / "pid"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=os.environ | {PID_FILE: str(told)}, **quiet)
    while process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") >= lines:
            os.kill(int(told.read_text()), signal.SIGKILL)
            return process.wait() == DIED
        time.sleep(0.002)
    return False


def test_help_names_every_verb_and_starts_without_heavy_imports() -> None:
    code = (
        "import sys; from sensitivity.cli.main import group; "
        "print(group.get_help(group.make_context('s', [], resilient_parsing=True))); "
        "print(sorted({'torch','numpy','pandas','onnx','scipy'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    for name in ("run", "scan", "plan", "export", "bench", "report", "doctor", "demo", "lint"):
        assert f"  {name} " in out
    assert out.strip().endswith("[]")


def test_doctor_names_what_is_missing_and_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setitem(doctor.PURPOSES, "no-such-package", ("nothing", install_line("mlflow")))
    assert verb("doctor") == 0
    out = capsys.readouterr().out
    assert "nvidia-modelopt" in out
    assert "onnxruntime" in out
    assert "pip install 'layer-sensitivity[mlflow]'" in out


def test_names_with_brackets_are_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    data = complete(3)
    named = replace(data.effects[0], unit="blocks[attention].qkv")
    Console(width=120).print(ranking_table(replace(data, effects=(named,), metric="AP[small]")))
    out = capsys.readouterr().out
    assert "blocks[attention].qkv" in out
    assert "AP[small] " in out


def test_layers_that_are_all_tied_are_one_sentence() -> None:
    data = complete(12)
    tied = tuple(replace(effect, tie=1) for effect in data.effects)
    assert no_layer_stands_out(data) == ""
    assert no_layer_stands_out(replace(data, effects=tied[:10])) == "", "a table holds them all"
    assert no_layer_stands_out(replace(data, effects=tied)) == (
        "No layer stands out: the data cannot distinguish any of 12 layers "
        "from the first (scan.csv lists them)."
    )
    scan_only = replace(data, effects=tied, plan=None)
    assert no_layer_stands_out(scan_only) == "The ranking of all 12 layers is in scan.csv.", (
        "the sentences below say that they are tied"
    )


def test_a_sample_budget_turns_the_scan_into_a_race(tmp_path: Path) -> None:
    out = tmp_path / "raced"
    assert verb("scan", f"{TASK}:task", "--samples", "50", "--out", out) == 0
    scan = pd.read_csv(out / "scan.csv")
    assert sorted(scan["unit"]) == LAYERS
    assert scan["unit"].tolist()[:2] == ["conv2", "conv5"], (
        "the two layers whose ranges are far too wide"
    )
    assert scan["n"].min() == 4, "one batch for those that the budget does not reach"
    assert json.loads((out / "scan.json").read_text())["signal"]
    assert verb("plan", out, "--target", "0.9") == 0
    assert json.loads((out / "plan.json").read_text())["planner"] == "interpolated"


def test_large_samples_turn_the_scan_into_a_race_among_few_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensitivity.session.EXACT_VALUES", 100 * 3 * 8 * 8)
    monkeypatch.setattr("sensitivity.measure.raced.CONTENDERS", 2)
    monkeypatch.setattr("sensitivity.steps.scan.COSTLY_BUDGET", Budget(entrants=2))
    out = tmp_path / "raced"
    assert verb("scan", f"{TASK}:task", "--out", out) == 0
    scan = json.loads((out / "scan.json").read_text())
    assert sorted(scan["signal"]) == LAYERS
    measured = [effect["unit"] for effect in scan["effects"] if effect["effect"]["n"]]
    assert sorted(measured) == ["conv2", "conv5"]
    journal = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    compared = {line["split"] for line in journal if line["op"] == "scores"}
    assert "rank: sqnr by spread, first 8" in compared
    assert verb("scan", f"{TASK}:task", "--exact", "--out", tmp_path / "exact") == 0
    assert not json.loads((tmp_path / "exact" / "scan.json").read_text())["signal"]


@pytest.mark.parametrize(("large", "samples"), [(False, 40), (True, 8)])
def test_ranges_are_calibrated_on_few_samples_if_they_are_large(
    large: bool, samples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensitivity.session.LARGE_CALIBRATION", 6)
    seen: list[int] = []
    monkeypatch.setattr(Session, "forward", lambda _, inputs: seen.append(len(inputs)))
    with open_session(
        f"{TASK}:task", tmp_path / "run", resume=False, choices=UnitChoices()
    ) as session:
        monkeypatch.setattr(Session, "has_large_samples", large)
        session.forward_calibration()
    assert sum(seen) == samples, "whole batches of four"


def not_onnx(file: Path) -> None:
    file.write_text("this is not a model, it is a sentence")


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def outside(file: Path) -> None:
    model = onnx.load(file)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../weights.bin")
    file.write_bytes(model.SerializeToString())


def nan_scale(file: Path) -> None:
    model = onnx.load(file)
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    scale = next(one for one in model.graph.initializer if one.name == node.input[1])
    scale.CopyFrom(
        onnx.numpy_helper.from_array(np.full(tuple(scale.dims), np.nan, np.float32), scale.name)
    )
    onnx.save(model, file)


def huge(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(2**31)  # a hole: no bytes on the disk


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            not_onnx,
            "to be a whole ONNX file, got 37 bytes that do not parse; it is cut short or not ONNX",
        ),
        (truncated, "it is cut short or not ONNX: copy or export it again."),
        (outside, "to lie in its own folder, got '../weights.bin'"),
        (
            nan_scale,
            "Expected every scale in model.int8.onnxruntime.onnx to be finite and above 0, got nan "
            "at",
        ),
        (huge, "to be smaller than 2 GB, got 2.15 GB; save it with its weights as external data."),
    ],
)
def test_a_bench_of_a_spoilt_file_says_in_one_sentence_what_is_wrong(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any, said: str
) -> None:
    out = tmp_path / "spoilt"
    shutil.copytree(done, out)
    spoil(out / "model.int8.onnxruntime.onnx")
    capsys.readouterr()
    assert verb("bench", out, "--rounds", "2", "--threads", "1") == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("Error: Expected ")
    assert printed.err.count("\n") == 1
    assert said in printed.err


def test_the_file_for_netron_computes_the_same_and_says_what_each_layer_costs(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(done, tmp_path / "run")
    assert verb("report", run, "--format", "netron") == 0
    assert capsys.readouterr().out == f"For Netron: {run / 'model.netron.onnx'}\n"
    plain, told = (onnx.load(run / f"model.{kind}.onnx") for kind in ("partial", "netron"))
    said = {node.name: node.doc_string for node in told.graph.node if node.doc_string}
    ranked = {row["unit"]: row for row in csv.DictReader((run / "scan.csv").open())}
    skip = json.loads((run / "plan.json").read_text())["skip"]
    assert set(said) == set(ranked) == set(LAYERS)
    for layer, text in said.items():
        assert text.startswith("float; " if layer in skip else "INT8; left out alone ")
        assert text.endswith(f"rank {ranked[layer]['rank']} of {len(LAYERS)}")
    for node in (*told.graph.node, *plain.graph.node):
        node.ClearField("doc_string")
    assert told.graph == plain.graph

    (run / "model.partial.onnx").unlink()
    assert verb("report", run, "--format", "netron") == 1
    assert f"Expected the exported files of the plan in {run}" in capsys.readouterr().err
