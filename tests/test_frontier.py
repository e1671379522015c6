"""The curve that a search leaves, and plans for other targets taken from it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sensitivity import api
from sensitivity.cli.main import main
from sensitivity.config import PlanSettings, ScanSettings
from sensitivity.records import CostModel, Estimate, FrontierPoint, Quantizer, Target, Unit
from sensitivity.run_dir import RunDir
from sensitivity.search.frontier import Frontier, best_points, centred_values, correction, replanned
from sensitivity.steps.plan_files import read_frontier

TASK = Path(__file__).parent / "tasks" / "tiny.py"


def point(skip: tuple[str, ...], metric: float, *, held: bool = True, **more) -> FrontierPoint:
    level, drop = (
        Estimate(metric, metric - 0.1, metric + 0.1, 100),
        Estimate(1 - metric, 0.0, 1.0, 100),
    )
    holdout = {"holdout": level, "holdout_drop": drop} if held else {}
    return FrontierPoint(skip, level, drop, **holdout, **more)


POINTS = (
    point((), 0.5),
    point(("a",), 0.9),
    point(("a", "b"), 0.8),
    point(("a", "b", "c"), 1.0, held=False),
)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run that has been scanned and planned, with two layers whose ranges are far too
    wide."""
    out = tmp_path_factory.mktemp("frontier") / "tiny"
    api.scan(ScanSettings(task=f"{TASK}:task", out=out))
    api.plan(PlanSettings(directory=out, target=1.0))
    return out


def test_only_what_nothing_beats_is_on_the_curve() -> None:
    assert [one.skip for one in best_points(POINTS, None)] == [(), ("a",), ("a", "b", "c")]
    cost = CostModel("table", "ms", 1.0, {"a": 0.5, "b": -0.6, "c": 0.1})
    assert [one.skip for one in best_points(POINTS, cost)] == [("a", "b"), ("a", "b", "c")]


def test_values_of_single_samples_have_the_metric_as_their_mean_also_where_it_is_no_mean() -> None:
    def top(scores: np.ndarray) -> float:
        return float(np.quantile(scores, 0.9) ** 2)

    scores = np.random.default_rng(0).exponential(size=(40, 1))
    values = centred_values(scores, top)
    assert len(values) == 40
    assert values.std() > 0
    assert values.mean() == pytest.approx(top(scores), abs=1e-12)


def test_the_correction_is_of_the_set_that_the_target_chooses() -> None:
    rng = np.random.default_rng(0)
    float_ = rng.random(400) < 0.9
    values = np.stack([float_, rng.random(400) < 0.5, float_]).astype(float)
    at = partial(correction, values, POINTS[:2], cost=None, by_count=True)
    assert at(POINTS[0].skip, 0.85).value == pytest.approx(0.0, abs=0.01)
    assert at(POINTS[0].skip, 0.1).value == pytest.approx(0.4, abs=0.06)
    assert at(("unknown",), 0.1) is None
    alone = correction(values[:2], POINTS[:1], POINTS[0].skip, 0.1, None, by_count=True)
    assert alone == POINTS[0].drop, "nothing was chosen"


def test_a_set_that_its_true_drop_chose_keeps_the_drop_that_was_counted() -> None:
    values = np.stack([np.ones(400), np.zeros(400), np.ones(400)])
    drop = correction(values, POINTS[:2], POINTS[0].skip, 0.85, None, by_count=False)
    assert drop == POINTS[0].drop


def test_another_target_takes_the_cheapest_measured_set_that_meets_it(planned: Path) -> None:
    plan = RunDir(planned).plan()
    plan = replace(plan, metric=replace(plan.metric, float=Estimate(1.0, None, None, 100)))
    quantizers = tuple(Quantizer(f"{name}.w", name, "weight", 8, None) for name in "abc")
    units = tuple(Unit(name, (f"{name}.w",)) for name in "abc")
    values = np.ones((len(POINTS) + 1, 100))

    def at(target: Target):
        return replanned(plan, Frontier(POINTS, {}, None), values, target, units, quantizers)

    found = at(Target(drop=0.15))
    assert (found.skip, found.quantizers, found.met, found.floor) == (("a",), ("a.w",), True, 0.85)
    assert found.metric.confirm.value == 0.9
    assert [step.met for step in found.path] == [False, True, False, True]
    assert "Chosen from 4 skip-sets that were measured before" in found.notes[0]
    assert at(Target(drop=0.0)) is None, "the holdout of that set was not measured"
    assert at(Target(metric=1.1)) is None, "no set meets it"


def test_float_itself_answers_for_no_other_target(planned: Path) -> None:
    plan, levels = RunDir(planned).plan(), (point((), 0.5), point(("a", "b"), 1.0))
    plan = replace(
        plan, skip=("a",), metric=replace(plan.metric, float=Estimate(1.0, None, None, 100))
    )
    units = tuple(Unit(name, (f"{name}.w",)) for name in "ab")
    quantizers = tuple(Quantizer(f"{name}.w", name, "weight", 8, None) for name in "ab")
    frontier, values = Frontier(levels, {}, None), np.ones((3, 100))
    assert replanned(plan, frontier, values, Target(drop=0.1), units, quantizers) is None, (
        "a search may find less"
    )
    everything = replace(plan, skip=("a", "b"))
    assert replanned(everything, frontier, values, Target(drop=0.1), units, quantizers) is not None


def test_planning_again_loads_neither_the_task_nor_torch(planned: Path) -> None:
    code = (
        "import sys; from sensitivity.cli.main import group; "
        f"group.main(['plan', {str(planned)!r}, '--max-drop', '5pt'], standalone_mode=False); "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'modelopt'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip().endswith("[]")
    assert "Chosen from" in out


def test_planning_again_answers_as_the_search_would(planned: Path) -> None:
    first = api.plan(PlanSettings(directory=planned, target=1.0))
    again = api.plan(PlanSettings(directory=planned, target=1.0, search=True))
    assert (first.skip, first.metric.holdout, first.metric.confirm_drop) == (
        again.skip,
        again.metric.holdout,
        again.metric.confirm_drop,
    )
    assert any("Chosen from" in note for note in first.notes)
    assert not any("Chosen from" in note for note in again.notes)


def test_another_planner_and_a_changed_task_are_searched_anew(planned: Path, monkeypatch) -> None:
    searched = []
    monkeypatch.setattr(
        api, "search_plan", lambda *all_: searched.append(all_) or RunDir(planned).plan()
    )
    api.plan(PlanSettings(directory=planned, target=1.0))
    assert not searched
    api.plan(PlanSettings(directory=planned, target=1.0, planner="exhaustive", cost="macs"))
    assert len(searched) == 1
    monkeypatch.setattr(
        "sensitivity.steps.replan.task_digest", lambda reference: {"text": "another"}
    )
    api.plan(PlanSettings(directory=planned, target=1.0))
    assert len(searched) == 2


def test_the_frontier_is_a_table_and_a_file(
    planned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(planned / "frontier.csv")
    assert {
        "layers",
        "metric",
        "drop",
        "met",
        "best",
        "holdout",
        "predicted_ms",
        "measured_ms",
    } <= set(table.columns)
    assert table["layers"].is_monotonic_increasing
    assert table["predicted_ms"].isna().all(), "nothing was timed"
    assert table.loc[table["best"], "holdout"].notna().all()
    frontier, best = read_frontier(RunDir(planned))
    assert len(frontier.points) == len(table)
    with pytest.raises(SystemExit) as stop:
        main(["plan", str(planned), "--frontier"])
    assert stop.value.code in (None, 0)
    assert "on confirm" in capsys.readouterr().out
    assert len(best) == table["best"].sum()


@pytest.mark.parametrize("kind", ["macs", "table", "engine"])
def test_the_cost_planner_says_what_its_plan_takes(planned: Path, kind: str) -> None:
    settings = PlanSettings(directory=planned, target=1.0, planner="cost", cost=kind, threads=1)
    plan = api.plan(settings)
    assert plan.met
    assert plan.planner == "cost"
    assert (plan.predicted_ms is None) == (kind == "macs"), (
        "milliseconds are measured or there are none"
    )
    assert (plan.measured_ms is None) == (kind != "engine")
    if kind == "table":
        before = (planned / "costs.json").read_bytes()
        api.plan(replace(settings, search=True))
        assert (planned / "costs.json").read_bytes() == before, "no layer is timed twice"
