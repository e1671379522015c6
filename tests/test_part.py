"""Searches on a part of `confirm`: what they may be made on, when more samples are used, and that
the stated probability is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from support.scripts import load_script
from support.studies import study_of

from sensitivity.journal.journal import open_journal
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.scan import scan
from sensitivity.records import Plan, Target
from sensitivity.search.choose import SearchOptions, choose_plan
from sensitivity.search.frontier import confirm_values, measured_frontier
from sensitivity.search.part import FIRST, ConfirmPart, first_part, part_note
from sensitivity.stats.order import is_in_random_order
from sensitivity.tasks.base import Task
from sensitivity.testing.fakes import FakeModel, FakeSimulator

HARM = {"stem": 0.20, "head": 0.10} | {f"block{index}": 0.004 for index in range(8)}
SIZE = 50

simulation = load_script("benchmarks/plan_search.py")


def batches(seed: int, n: int) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(seed)
    samples, labels = rng.random(n), rng.integers(0, 10, n)
    return [(samples[at : at + SIZE], labels[at : at + SIZE]) for at in range(0, n, SIZE)]


def task_of(confirm: int = 4000, **changes: Any) -> Task:
    data = {"rank": batches(0, 400), "confirm": batches(1, confirm), "holdout": batches(2, 400)}
    task = Task(FakeModel(HARM), data, lambda outputs, _: outputs, soft=lambda f, o: 0.8 * (f - o))
    return replace(task, **changes)


def planned(path: Path, drop: float, first: int | None) -> tuple[Plan, Measurer, np.ndarray]:
    """The plan, the measurer, and the values of the frontier.

    first: batches of `confirm` to begin with.
    """
    task, journal = task_of(), open_journal(path / "journal.jsonl", {}, resume=False)
    simulator = FakeSimulator(task.model)
    with journal:
        measurer = Measurer(task, lambda _: simulator, journal)
        study = study_of(measurer)
        scanned = scan(study, "disable")
        with measurer.only_first("confirm", first):
            plan = choose_plan(study, scanned, Target(drop=drop), SearchOptions(may_grow=True))
            values = confirm_values(study, measured_frontier(study, plan, None))
            note = part_note(plan, measurer)
    return replace(plan, notes=(note or "",)), measurer, values


def test_a_plan_rests_on_the_first_samples_of_confirm_if_they_are_enough(tmp_path: Path) -> None:
    samples, plans = [], []
    for first in (None, 20):
        folder = tmp_path / str(first)
        folder.mkdir()
        plan, measurer, values = planned(folder, 0.05, first)
        assert values.shape[1] == plan.metric.confirm.n == plan.metric.float.n
        samples.append(measurer.samples)
        plans.append(plan)
    whole, part = plans
    assert whole.met
    assert part.met
    assert (whole.metric.confirm.n, part.metric.confirm.n) == (4000, 1000)
    assert samples[1] < samples[0] / 2
    assert {"stem", "head"} <= set(part.skip)
    assert whole.notes == ("",)
    assert part.notes[0].startswith(
        "The plan was chosen on the first 1,000 samples of confirm, 25%"
    )
    assert part.metric.true_drop is not None
    assert part.metric.true_drop.n == 1400, "those of the part and of holdout"


def test_more_of_confirm_is_used_if_the_plan_would_leave_most_units_out(tmp_path: Path) -> None:
    plan, measurer, _ = planned(tmp_path, 0.001, 20)
    assert 2 * len(plan.skip) > len(HARM)
    assert plan.metric.confirm.n == 4000
    assert measurer.count("confirm") == 80


def test_a_part_is_doubled_once_for_a_plan_that_leaves_most_units_out() -> None:
    """After that the plan still leaves 42 of 70 units out, and all of `confirm` would not help."""
    found = simulation.search(11, 5000, 0.01, 20)
    assert 2 * found.skipped > simulation.UNITS
    assert found.used == 2000


def not_numbers() -> dict[str, Any]:
    data = dict(task_of().data)
    data["confirm"] = [(inputs, None) for inputs, _ in data["confirm"]]
    return data


def in_order() -> dict[str, Any]:
    data = dict(task_of().data)
    labels = np.sort(np.concatenate([targets for _, targets in data["confirm"]]))
    parts = np.split(labels, len(data["confirm"]))
    data["confirm"] = [
        (inputs, part) for (inputs, _), part in zip(data["confirm"], parts, strict=True)
    ]
    return data


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (task_of(aggregate=np.median, metric="median"), "median is not a mean over samples"),
        (task_of(soft=None), "the task has no soft drop"),
        (task_of(data=not_numbers()), "its targets are not one number for each sample"),
        (task_of(data=in_order()), "its samples are in the order of their targets"),
    ],
    ids=["not a mean", "no soft drop", "targets are no numbers", "in order"],
)
def test_all_of_confirm_is_used_where_a_part_proves_nothing_and_the_note_says_why(
    task: Task, why: str
) -> None:
    part = first_part(task)
    assert part.batches is None
    assert part.note is not None
    assert part.note.startswith(f"All of confirm was measured, because {why}")


def test_a_planner_whose_promise_was_not_simulated_uses_all_of_confirm() -> None:
    assert first_part(task_of(), "greedy").batches == 20
    part = first_part(task_of(), "cost")
    assert part == ConfirmPart(
        None,
        "All of confirm was measured, because planner cost was not simulated on a part of it.",
    )


@pytest.mark.parametrize(("samples", "expected"), [(1950, None), (2000, 20), (5000, 20)])
def test_small_splits_are_used_whole_without_a_word(samples: int, expected: int | None) -> None:
    part = first_part(task_of(samples))
    assert part.batches == expected
    assert part.note is None
    assert FIRST == 20 * SIZE


@pytest.mark.parametrize(
    ("values", "random"),
    [
        (np.random.default_rng(0).integers(0, 10, 500), True),
        (np.random.default_rng(1).random(500), True),
        (np.repeat(np.arange(10), 50), False),
        (np.repeat(np.random.default_rng(2).permutation(100), 5), False),
        (np.zeros(500), False),
    ],
    ids=["labels", "numbers", "sorted", "groups", "all the same"],
)
def test_sorted_and_grouped_samples_are_not_in_random_order(
    values: Sequence[float], random: bool
) -> None:
    assert is_in_random_order(values) is random


def test_samples_in_random_order_are_seldom_called_ordered() -> None:
    rng = np.random.default_rng(3)
    called = sum(is_in_random_order(rng.integers(0, 20, 300)) for _ in range(2000))
    assert called >= 1990


def test_the_stated_probability_is_kept_on_a_part() -> None:
    """A quick version of the thousand searches of `benchmarks/plan_search.py`."""
    found = [simulation.search(seed, 5000, 0.03, 20) for seed in range(40)]
    kept = sum(one.kept for one in found)
    assert binomtest(kept, len(found), 0.8, alternative="less").pvalue > 0.05
    assert np.mean([one.samples for one in found]) <= 4300
    assert {one.used for one in found} == {1000}


def test_a_plan_for_one_point_takes_about_as_many_samples() -> None:
    found = [simulation.search(seed, 5000, 0.01, 20) for seed in range(100, 120)]
    assert np.mean([one.samples for one in found]) <= 4800
