"""`sensitivity compare`: runs side by side, in a page, in CSV files and in the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support.commands import verb
from support.reporting_samples import TIMINGS, complete, timing

import sensitivity as sv
from sensitivity.errors import NamesError, RunDirError
from sensitivity.measure.scan import Scan
from sensitivity.records import BenchResult, Effect, Estimate, Mode, Plan
from sensitivity.reporting.csv import write_csv
from sensitivity.reporting.formats import MetricFormat
from sensitivity.reporting.outcome import verdict_of
from sensitivity.reporting.tables import bench_table, scan_table
from sensitivity.results import planned
from sensitivity.run_dir import RunDir, RunInfo

EVIL = "<script>alert(1)</script>"
SAMPLE = complete()
assert SAMPLE.plan is not None
PLAN: Plan = SAMPLE.plan


def folder(path: Path, plan: Plan = PLAN) -> Path:
    """A report folder, which has no journal and no run.json."""
    RunDir(path).write("plan.json", plan)
    write_csv(scan_table(SAMPLE.effects, SAMPLE.units), path / "scan.csv")
    write_csv(bench_table(TIMINGS), path / "bench.csv")
    return path


def run_dir(path: Path, plan: Plan | None = PLAN, mode: Mode = "disable") -> Path:
    """A run directory as the verbs leave it, without models."""
    run = RunDir(path)
    info = RunInfo(
        task="my_task.py:task",
        mode=mode,
        metric=PLAN.metric.name if plan is None else plan.metric.name,
        full_scale=1.0,
        source="modelopt",
        quantizers=(),
        units=SAMPLE.units,
        splits={"rank": 300, "confirm": 500, "holdout": 250},
    )
    run.write("run.json", info)
    run.write("scan.json", Scan(mode, SAMPLE.baselines, SAMPLE.effects))
    if plan:
        run.write("plan.json", plan)
        timings = (*TIMINGS[:1], timing("model.partial.onnx", 1.605, 2.0, "partial"))
        run.write("bench.json", BenchResult(timings, (), {}, {}, plan.skip))
    return path


def compared(tmp_path: Path, *runs: Path) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    out = tmp_path / "out"
    assert verb("compare", *runs, "--out", out) == 0
    page = (out / "compare.html").read_text()
    return pd.read_csv(out / "compare.csv"), pd.read_csv(out / "compare_layers.csv"), page


def test_a_run_directory_and_a_report_folder_stand_in_one_table(tmp_path: Path) -> None:
    fewer = replace(PLAN, skip=PLAN.skip[:2])
    table, _, _ = compared(tmp_path, run_dir(tmp_path / "a", fewer), folder(tmp_path / "b"))
    first, second = (row for _, row in table.iterrows())
    assert (first["run"], first["task"], first["source"]) == ("a", "my_task.py:task", "modelopt")
    assert (second["run"], second["left_out"]) == ("b", ";".join(PLAN.skip))
    assert pd.isna(second["task"])
    assert (first["layers_left_out"], second["layers_left_out"]) == (2, 5)
    assert (first["layers"], second["layers"]) == (28, 28)
    assert list(first[["plan_holdout", "plan_holdout_low", "plan_holdout_n"]]) == [
        PLAN.metric.holdout.value,
        PLAN.metric.holdout.low,
        250,
    ]
    assert list(table["all_int8_confirm"]) == [0.301, 0.301]
    assert list(table["holdout_drop_high"]) == [PLAN.metric.holdout_drop.high] * 2
    assert list(table["all_int8_holdout"].isna()) == [True, True]  # was not measured
    assert list(table["true_drop"].isna()) == [True, True]
    assert list(table["onnxruntime_plan_ms"]) == [1.605, 4.31]
    assert list(table["onnxruntime_plan_speed"]) == [2.0, 0.745]
    assert pd.isna(first["onnxruntime_all_int8_ms"])
    assert list(table["speed"]) == ["faster than float", "slower than float so far"]
    assert list(table["what_to_do"]) == ["weigh the risk", "write the file for its runtime"]


def test_layers_have_the_rank_and_effect_of_each_run(tmp_path: Path) -> None:
    fewer = replace(PLAN, skip=PLAN.skip[:1])
    _, layers, _ = compared(tmp_path, folder(tmp_path / "a"), folder(tmp_path / "b", fewer))
    assert list(layers["a: rank"]) == list(range(1, 29))
    second = layers.iloc[1]
    assert (second["unit"], second["b: rank"]) == (SAMPLE.effects[1].unit, 2)
    assert second["b: effect"] == pytest.approx(SAMPLE.effects[1].effect.value)
    assert (second["a: left_out"], second["b: left_out"]) == (True, False)


def test_a_layer_that_one_run_lacks_or_does_not_judge_has_no_effect_there(tmp_path: Path) -> None:
    first, second = run_dir(tmp_path / "a"), run_dir(tmp_path / "b")
    unknown = Effect(1, 1, "only.here", Estimate(0.5, None, None, 300), 0.8, judged=False)
    RunDir(second).write("scan.json", Scan("disable", SAMPLE.baselines, (unknown,)))
    _, layers, page = compared(tmp_path, first, second)
    own = layers.set_index("unit").loc["only.here"]
    assert own["b: rank"] == 1
    assert own[["a: rank", "a: left_out", "b: effect"]].isna().all()
    assert "not in this run" in page
    assert "not judged" in page


def test_runs_of_different_metrics_are_told_apart_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(PLAN, metric=replace(PLAN.metric, name="mAP50-95"))
    table, _, page = compared(tmp_path, folder(tmp_path / "a"), folder(tmp_path / "b", other))
    sentence = (
        "This run is measured by mAP50-95 and a by top-1: their accuracies and effects cannot be "
        "compared."
    )
    assert list(table["same_metric"]) == ["yes", sentence]
    assert page.count(sentence) == 1
    assert "mAP50-95" in capsys.readouterr().out


def test_the_terminal_shows_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compared(tmp_path, folder(tmp_path / "a"), run_dir(tmp_path / "b"))
    said = capsys.readouterr().out
    for words in ("slower than float", "5 of 28 layers", "51.4 %", "4.31 ms", "1.6", "modelopt"):
        assert words in said
    assert f"Comparison: {tmp_path / 'out' / 'compare.html'}" in said


def test_the_page_is_whole_and_escapes_every_name(tmp_path: Path) -> None:
    evil = replace(PLAN, skip=(EVIL,), metric=replace(PLAN.metric, name=f"top-1 {EVIL}"))
    _, _, page = compared(
        tmp_path, folder(tmp_path / "<b>a</b>".replace("/", "")), folder(tmp_path / "b", evil)
    )
    assert "<script>alert" not in page
    assert "<b>" not in page
    assert page.count("<script>") == 1
    assert "http" not in page.replace("http-equiv", "")
    assert "51.4" in page


def test_runs_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "x" / "run"), folder(tmp_path / "y" / "run")
    table, _, _ = compared(tmp_path, first, second)
    assert list(table["run"]) == [str(first), str(second)]


def test_the_scan_mode_of_a_folder_is_found_in_its_numbers(tmp_path: Path) -> None:
    losses = tuple(replace(effect, metric=0.519 - effect.effect.value) for effect in SAMPLE.effects)
    first, second = folder(tmp_path / "a"), folder(tmp_path / "b")
    write_csv(scan_table(losses, SAMPLE.units), second / "scan.csv")
    _, _, page = compared(tmp_path, first, second)
    assert "a: gain when only this layer is left out of INT8" in page
    assert "b: loss when only this layer is in INT8" in page
    assert "Gains and losses are different measurements" in page


def test_a_bench_of_each_runtime_has_columns_of_its_own(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "a"), folder(tmp_path / "b")
    other = tuple(replace(one, runtime="openvino", median_ms=9.0) for one in TIMINGS)
    write_csv(bench_table(other), first / "bench_openvino.csv")
    table, _, page = compared(tmp_path, first, second)
    assert table["openvino_plan_ms"][0] == 9.0
    assert pd.isna(table["openvino_plan_ms"][1])
    assert "Plan in OpenVINO" in page
    assert "not timed" in page


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert verb("compare", *words) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_bad_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, planless = folder(tmp_path / "a"), run_dir(tmp_path / "b", None)
    out = ("--out", tmp_path / "out")
    few = "Expected at least two plans to compare, got"
    assert f"{few} only {good / 'plan.json'};" in refused(capsys, good, *out)
    assert f"{few} none;" in refused(capsys, *out)
    twice = f"Expected each plan once, got {good / 'plan.json'} twice; name another one."
    assert twice in refused(capsys, good, good / ".", *out)
    missing = f"Expected {planless / 'plan.json'} to exist, got nothing there; make it with:"
    assert missing in refused(capsys, good, planless, *out)
    nowhere = tmp_path / "nowhere"
    assert f"Expected {nowhere / 'run.json'} to exist" in refused(capsys, good, nowhere, *out)
    assert not (tmp_path / "out").exists()


def planned_twice(path: Path) -> Path:
    """A run with a plan in plan.json that was benched, and one called fast that was not."""
    run = run_dir(path)
    RunDir(run, "fast").write("plan.json", replace(PLAN, skip=PLAN.skip[:1], measured_ms=None))
    return run


def test_one_directory_alone_stands_for_all_its_plans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planned_twice(tmp_path / "a")
    before = sorted(tmp_path.rglob("*"))
    assert verb("compare", run) == 0
    said = capsys.readouterr().out
    assert "plan.json" in said
    assert "fast" in said
    assert "not timed" in said
    assert "Comparison:" not in said
    assert sorted(tmp_path.rglob("*")) == before
    table, layers, _ = compared(tmp_path, run)
    assert list(table["run"]) == ["plan.json", "fast"]
    assert list(table["layers_left_out"]) == [5, 1]
    assert layers["fast: left_out"].sum() == 1


def test_a_plan_that_was_kept_has_the_verdict_of_its_own_bench(tmp_path: Path) -> None:
    run = planned_twice(tmp_path / "a")
    metric = MetricFormat(SAMPLE.metric, SAMPLE.full_scale)
    own = verdict_of(PLAN, None, metric)
    assert own.speed == "not measured"
    timed = replace(own, speed="faster", speed_sentence="1.5 times as fast.")
    kept = replace(PLAN, skip=PLAN.skip[:1], verdict=timed)
    RunDir(run, "kept").write("plan.json", kept)
    table, _, _ = compared(tmp_path, run)
    speeds = dict(zip(table["run"], table["speed_sentence"], strict=True))
    assert speeds["kept"] == "1.5 times as fast."
    assert speeds["fast"] != speeds["kept"]


def test_the_same_plan_of_several_runs_and_several_plans_of_one(tmp_path: Path) -> None:
    first, second = planned_twice(tmp_path / "a"), planned_twice(tmp_path / "b")
    table, _, _ = compared(tmp_path, first, second, "--name", "fast")
    assert list(table["run"]) == ["a/fast", "b/fast"]
    RunDir(first, "slow").write("plan.json", PLAN)
    table, _, _ = compared(tmp_path, first, "--name", "slow", "--name", "fast")
    assert list(table["run"]) == ["slow", "fast"]


def test_functions_compare_directories_and_results(tmp_path: Path) -> None:
    run, other = planned_twice(tmp_path / "a"), run_dir(tmp_path / "b")
    found = sv.compare(run)
    assert list(found.to_frame()["run"]) == ["plan.json", "fast"]
    assert "fast: rank" in found.layers()
    assert "<b>fast</b>" in found._repr_html_()
    assert not (tmp_path / "out").exists()
    fast = planned(run, None, "fast")
    assert list(sv.compare(fast, planned(run, None)).to_frame()["run"]) == ["fast", "plan.json"]
    both = sv.compare(fast, str(other), out=tmp_path / "out")
    assert list(both.to_frame()["run"]) == ["a/fast", "b"]
    assert (tmp_path / "out/compare.html").exists()
    with pytest.raises(RunDirError, match="Expected each plan once"):
        sv.compare(fast, fast)
    with pytest.raises(RunDirError, match="Expected at least two plans to compare"):
        sv.compare(fast)
    with pytest.raises(NamesError, match="a setting of sensitivity.compare"):
        sv.compare(run, names=["fast"])


@pytest.mark.parametrize("words", [["--name", "fats"], ["--name", "../a"], ["--name", ""]])
def test_a_name_of_no_plan_is_one_sentence(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, planned_twice(tmp_path / "a"), run_dir(tmp_path / "b"), *words)
    assert "Expected --name" in said


@pytest.mark.parametrize("name", ["scan.csv", "bench.csv"])
@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", '"'], ids=["empty", "foreign", "cut"])
def test_a_damaged_table_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    good, bad = folder(tmp_path / "a"), folder(tmp_path / "b")
    (bad / name).write_text(content)
    said = refused(capsys, good, bad, "--out", tmp_path / "out")
    assert f"Expected {bad / name} to be a table that sensitivity wrote, got" in said
