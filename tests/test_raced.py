"""A raced scan and its plan, on a model whose quantization errors are known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.studies import study_of

from sensitivity.journal.journal import open_journal
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.progress import Advance, Progress, silent
from sensitivity.measure.raced import Budget, measured_signal, raced_scan
from sensitivity.measure.scan import Scan
from sensitivity.planners import interpolated
from sensitivity.planners.base import Goal, Judged
from sensitivity.planners.interpolated import InterpolatedPlanner
from sensitivity.records import Plan, Target
from sensitivity.search.choose import choose_plan
from sensitivity.search.judge import SequentialJudge
from sensitivity.signals.base import Signal
from sensitivity.stats.racing_prefix import Tried
from sensitivity.tasks.base import Task, mean
from sensitivity.testing.fakes import FakeModel, FakeSimulator

HARM = {"stem": 0.20, "head": 0.10} | {f"block{index}": 0.002 for index in range(18)}


def batches(n: int, seed: int, size: int = 50) -> list[tuple[Any, Any]]:
    samples = np.random.default_rng(seed).permutation(np.linspace(0, 0.999, n))
    return [(samples[i : i + size], None) for i in range(0, n, size)]


def fake_task(n: int = 1000) -> Task:
    data = {split: batches(n, seed) for seed, split in enumerate(("rank", "confirm", "holdout"))}
    return Task(FakeModel(HARM), data, lambda outputs, _: outputs)


def difference(reference: Any, outputs: Any) -> Any:
    return np.abs(reference[0] - outputs[0])


def raced(
    task: Task,
    path: Path,
    budget: Budget,
    target: Target | None = None,
    progress: Progress = silent,
) -> tuple[Scan, Plan | None, Measurer]:
    with open_journal(path, {}, resume=True) as journal:
        measurer = Measurer(task, lambda _: FakeSimulator(task.model), journal, progress)
        study = study_of(measurer)
        signal = measured_signal(study, Signal("difference", difference))
        scan = raced_scan(study, "disable", signal, budget)
        plan = choose_plan(study, scan, target) if target else None
    return scan, plan, measurer


def test_a_race_finds_the_worst_units_with_a_fraction_of_the_samples(tmp_path: Path) -> None:
    scan, _, measurer = raced(fake_task(), tmp_path / "j", Budget(6000))
    assert [effect.unit for effect in scan.effects[:2]] == ["stem", "head"]
    assert scan.effects[1].tie == 2, "the metric itself tells these two apart"
    assert measurer.samples < 0.4 * 1000 * (len(HARM) + 4)
    for effect, harm in zip(scan.effects[:2], (0.20, 0.10), strict=True):
        assert effect.effect.low <= harm <= effect.effect.high


def test_the_progress_of_a_signal_counts_each_variant_as_it_is_compared(tmp_path: Path) -> None:
    shown: list[tuple[int, int]] = []
    totals: list[int] = []

    @contextmanager
    def progress(what: str, total: int) -> Iterator[Advance]:
        totals.append(total)
        yield lambda steps, samples: shown.append((steps, samples))

    task = fake_task(100)
    with open_journal(tmp_path / "j", {}, resume=False) as journal:
        measurer = Measurer(task, lambda _: FakeSimulator(task.model), journal, progress)
        units = len(study_of(measurer).units)
        for samples in (16, 16):
            measured_signal(study_of(measurer), Signal("difference", difference), samples)
    assert totals == [16 * units] * 2
    steps = [step for step, _ in shown if step]
    assert steps == [16] * units + [16 * units], "one by one, then all that are known"
    assert sum(samples for _, samples in shown) == measurer.samples


def test_progress_never_says_that_more_was_done_than_there_is(tmp_path: Path) -> None:
    steps: dict[str, list[int]] = {}

    @contextmanager
    def progress(what: str, total: int) -> Iterator[Advance]:
        steps[what] = [total, 0]

        def advance(done: int, samples: int) -> None:
            steps[what][1] += done

        yield advance

    raced(fake_task(100), tmp_path / "j", Budget(6000), progress=progress)
    total, done = steps["race on the metric"]
    assert 2 * 8 < done <= total
    assert done > 22, "all units had the first batch"


def test_a_budget_that_runs_out_still_ranks_every_unit_with_wide_intervals(tmp_path: Path) -> None:
    scan, _, _ = raced(fake_task(), tmp_path / "j", Budget(samples=1))
    assert sorted(effect.unit for effect in scan.effects) == sorted(HARM)
    measured = [effect.effect for effect in scan.effects if effect.effect.n]
    assert [effect.n for effect in measured] == [50] * 8
    assert all(effect.low < effect.value < effect.high for effect in measured)


def test_units_that_the_race_spent_no_samples_on_say_so_and_tie_with_all_above_them(
    tmp_path: Path,
) -> None:
    scan, _, _ = raced(fake_task(), tmp_path / "j", Budget(samples=1))
    unmeasured = [effect for effect in scan.effects if effect.effect.n == 0]
    assert len(unmeasured) == len(HARM) - 8
    assert all(
        (effect.effect.low, effect.effect.high, effect.tie) == (None, None, 1)
        for effect in unmeasured
    )


def test_a_signal_is_measured_on_16_samples_and_no_more_where_batches_can_be_cut(
    tmp_path: Path,
) -> None:
    task = fake_task()
    for smallest, samples in ((1, 16), (None, 50)):
        with open_journal(tmp_path / str(smallest), {}, resume=False) as journal:
            simulator = FakeSimulator(task.model)
            simulator.smallest = smallest
            measurer = Measurer(task, lambda _, simulator=simulator: simulator, journal)
            signal = measured_signal(study_of(measurer), Signal("difference", difference))
        assert measurer.samples == samples * (len(HARM) + 1)
        assert max(signal, key=lambda name: signal[name]) == "stem"


def test_a_resumed_race_gives_the_same_and_forwards_only_what_is_missing(tmp_path: Path) -> None:
    target = Target(drop=0.05)
    whole, plan, measurer = raced(fake_task(), tmp_path / "whole", Budget(6000), target)
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "part").write_bytes(content[: len(content) // 3])
    resumed, again, rest = raced(fake_task(), tmp_path / "part", Budget(6000), target)
    assert (resumed, again) == (whole, plan)
    assert 0 < rest.samples < measurer.samples


def test_a_raced_plan_is_only_called_met_on_all_of_confirm(tmp_path: Path) -> None:
    _, plan, _ = raced(fake_task(), tmp_path / "j", Budget(6000), Target(drop=0.05))
    assert plan.met
    assert set(plan.skip) == {"stem", "head"}
    assert plan.planner == "interpolated"
    assert plan.metric.confirm.n == 1000
    assert plan.metric.confirm.value >= plan.floor
    rejected = [step for step in plan.path if not step.met]
    assert min(step.n for step in rejected) < 1000, (
        "a set that is clearly too small is not measured to the end"
    )


def test_after_a_race_a_metric_that_is_no_mean_is_planned_by_bisection_and_pruning(
    tmp_path: Path,
) -> None:
    planners = []
    for number, aggregate in enumerate((mean, lambda scores: scores.mean())):
        task = replace(fake_task(), aggregate=aggregate)
        _, plan, _ = raced(task, tmp_path / str(number), Budget(), Target(drop=0.15))
        assert plan is not None
        assert (plan.met, "stem" in plan.skip) == (True, True)
        planners.append(plan.planner)
    assert planners == ["interpolated", "greedy"]


def test_a_sequential_judge_agrees_with_the_whole_split_where_the_answer_is_clear(
    tmp_path: Path,
) -> None:
    task = fake_task()
    with open_journal(tmp_path / "j", {}, resume=False) as journal:
        measurer = Measurer(task, lambda _: FakeSimulator(task.model), journal)
        study = study_of(measurer)
        (float_scores,) = measurer.scores([study.float_variant], "confirm", "")
        judge = SequentialJudge(study, 0.9, float_scores)
        refused, met = judge(()), judge(tuple(HARM))
    assert not refused.met
    assert refused.n < 1000
    assert refused.metric == pytest.approx(0.664, abs=0.1)
    assert met == Judged(1.0, True, 1000)


@pytest.mark.parametrize("needed", [0, 1, 3, 7, 12])
def test_the_interpolated_planner_ends_at_a_set_that_meets_the_goal(needed: int) -> None:
    units = [f"u{index}" for index in range(12)]
    signal = {unit: 2.0**-index for index, unit in enumerate(units)}
    tries: list[int] = []

    def judge(skip: tuple[str, ...]) -> Judged:
        tries.append(len(skip))
        left = sum(signal.values()) - sum(signal[unit] for unit in skip)
        return Judged(1 - left / 4, set(units[:needed]) <= set(skip), 100)

    allowed = (sum(signal.values()) - sum(signal[unit] for unit in units[:needed])) / 4
    choice = InterpolatedPlanner(signal).choose(units, judge, Goal(floor=1 - allowed, start=1.0))
    assert choice.met
    # The target is just met by `needed` units: where that is not sure, it is worth one unit more.
    assert choice.skip in (tuple(units[:needed]), tuple(units[: needed + 1]))
    assert len(tries) <= 4


def test_the_next_prefix_follows_from_how_much_of_the_split_each_miss_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def next_size(signal, tried, allowed):
        seen[:] = tried
        return None if len(tried) == 2 else len(tried)

    monkeypatch.setattr(interpolated, "next_size", next_size)
    InterpolatedPlanner({"a": 1.0, "b": 0.5}).choose(
        ["a", "b"],
        lambda skip: Judged(0.5, False, 30, error=0.02, part=0.3),
        Goal(floor=0.9, start=1.0),
    )
    assert seen == [Tried(size, 0.5, 0.02, False, 0.3) for size in (0, 1)]


def test_a_goal_that_nothing_meets_gives_the_best_set_tried() -> None:
    units = ["a", "b", "c"]
    choice = InterpolatedPlanner(dict.fromkeys(units, 1.0)).choose(
        units, lambda skip: Judged(len(skip) / 10, False, 100), Goal(floor=2.0, start=1.0)
    )
    assert not choice.met
    assert choice.skip == ("a", "b", "c")
