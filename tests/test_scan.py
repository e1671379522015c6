"""The measuring loop and the ranking, on a model whose quantization errors are known."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.batches import batches
from support.studies import study_of

from sensitivity.errors import TaskError
from sensitivity.journal.journal import open_journal
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.ranking import rank_effects
from sensitivity.measure.scan import Scan, scan
from sensitivity.quantizers.base import layers
from sensitivity.records import Target
from sensitivity.search.choose import choose_plan
from sensitivity.tasks.base import Task, mean
from sensitivity.tasks.batches import first_samples
from sensitivity.testing.fakes import FakeModel, FakeSimulator

HARM = {"stem": 0.30, "body": 0.02, "head": 0.10}


def fake_task(
    score: Callable[[Any, Any], Any] = lambda outputs, _: outputs, **changes: Any
) -> Task:
    data = {split: batches(seed=seed) for seed, split in enumerate(("rank", "confirm", "holdout"))}
    return Task(**{"model": FakeModel(HARM), "data": data, "score": score} | changes)


def run_scan(
    task: Task, path: Path, mode: str = "disable", resume: bool = True
) -> tuple[Scan, FakeSimulator, Measurer]:
    simulator = FakeSimulator(task.model)
    with open_journal(path, {"model": "fake"}, resume=resume) as journal:
        measurer = Measurer(task, lambda _: simulator, journal)
        result = scan(study_of(measurer), mode)  # type: ignore[arg-type]
    return result, simulator, measurer


def test_units_are_ranked_by_what_the_metric_gains_without_them(tmp_path: Path) -> None:
    result, _, _ = run_scan(fake_task(), tmp_path / "j")
    assert [effect.unit for effect in result.effects] == ["stem", "head", "body"]
    assert [effect.effect.value for effect in result.effects] == pytest.approx([0.30, 0.10, 0.02])
    assert result.baselines["float"].value == 1.0
    assert result.baselines["quantized"].value == pytest.approx(0.58)
    assert result.baselines["weights only"].value == pytest.approx(0.79)


def test_mode_enable_measures_what_one_unit_alone_costs(tmp_path: Path) -> None:
    result, _, _ = run_scan(fake_task(), tmp_path / "j", mode="enable")
    assert [effect.unit for effect in result.effects] == ["stem", "head", "body"]
    assert [effect.effect.value for effect in result.effects] == pytest.approx([0.30, 0.10, 0.02])


def test_effects_that_the_data_cannot_tell_apart_are_ties(tmp_path: Path) -> None:
    task = fake_task(model=FakeModel({"a": 0.30, "b": 0.01, "c": 0.0}))
    result, _, _ = run_scan(task, tmp_path / "j")
    assert [(effect.unit, effect.tie) for effect in result.effects] == [
        ("a", 1),
        ("b", 2),
        ("c", 2),
    ]


def test_a_resumed_scan_measures_only_what_is_missing_and_gives_the_same(tmp_path: Path) -> None:
    whole, simulator, _ = run_scan(fake_task(), tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "part").write_bytes(content[: len(content) // 2])
    resumed, rest, _ = run_scan(fake_task(), tmp_path / "part")
    assert resumed == whole
    assert 0 < rest.calls < simulator.calls
    again, none, measurer = run_scan(fake_task(), tmp_path / "part")
    assert (again, none.calls, measurer.samples) == (whole, 0, 0)


@pytest.mark.parametrize(
    ("score", "sentence"),
    [
        (
            lambda outputs, _: 1 / 0,
            r"Expected task.score to return on batch 0 of split 'rank', got ZeroDivisionError",
        ),
        (
            lambda outputs, _: outputs * np.nan,
            "finite scores on batch 0 of split 'rank', got nan for sample 0",
        ),
        (
            lambda outputs, _: outputs[:-1],
            "one score for each of the 20 samples on batch 0 of split 'rank', got 19",
        ),
        (
            lambda outputs, _: outputs.mean(),
            "got a single number; return an array whose first axis is the sample",
        ),
    ],
    ids=["raises", "nan", "wrong-length", "not-per-sample"],
)
def test_a_broken_score_function_is_one_sentence_and_nothing_stays_switched(
    score: Callable[[Any, Any], Any], sentence: str, tmp_path: Path
) -> None:
    task = fake_task(score)
    with pytest.raises(TaskError, match=sentence):
        run_scan(task, tmp_path / "j")
    assert task.model.off == frozenset()
    run_scan(fake_task(), tmp_path / "j")  # the journal is intact


def test_an_aggregate_that_is_not_finite_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        TaskError, match="Expected task.aggregate to return a finite number, got nan"
    ):
        run_scan(fake_task(aggregate=lambda scores: float("nan")), tmp_path / "j")


def test_data_that_lies_about_its_length_is_refused(tmp_path: Path) -> None:
    class Lying(list[Any]):
        def __len__(self) -> int:
            return 3

    data = {split: Lying(batches()) for split in ("rank", "confirm", "holdout")}
    with pytest.raises(TaskError, match="Expected split 'rank' to hold 3 batches as its len"):
        run_scan(fake_task(data=data), tmp_path / "j")


@given(st.permutations(range(4)))
def test_any_order_of_units_gives_the_same_effects(order: list[int]) -> None:
    units = layers(FakeModel({"a": 0.3, "b": 0.2, "c": 0.1, "d": 0.05}).quantizers)
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2, 60).astype(float)
    scores = [np.clip(base + (rng.random(60) < share), 0, 1) for share in (0.4, 0.3, 0.2, 0.1)]
    expected = {e.unit: e for e in rank_effects(units, scores, base, mean, "disable")}
    shuffled = rank_effects(
        [units[i] for i in order], [scores[i] for i in order], base, mean, "disable"
    )
    assert {e.unit: e.effect for e in shuffled} == {name: e.effect for name, e in expected.items()}


def test_a_metric_that_is_no_mean_gets_jackknife_intervals(tmp_path: Path) -> None:
    task = fake_task(aggregate=lambda scores: float(np.sqrt(np.mean(scores))))
    result, _, _ = run_scan(task, tmp_path / "j")
    first = result.effects[0]
    assert first.effect.value == pytest.approx(np.sqrt(0.88) - np.sqrt(0.58))
    assert 0 < first.effect.low < first.effect.value < first.effect.high


def plan_for(task: Task, path: Path, target: Target) -> Any:
    result, simulator, _ = run_scan(task, path)
    with open_journal(path, {"model": "fake"}, resume=True) as journal:
        measurer = Measurer(task, lambda _: simulator, journal)
        return choose_plan(study_of(measurer), result, target)


def test_a_plan_meets_its_target_on_confirm_and_is_judged_on_holdout(tmp_path: Path) -> None:
    plan = plan_for(fake_task(), tmp_path / "j", Target(drop=0.12))
    assert plan.skip == ("stem",)
    assert plan.quantizers == ("stem.input_quantizer", "stem.weight_quantizer")
    assert plan.met
    assert plan.metric.confirm.value == pytest.approx(0.88)
    assert plan.floor == pytest.approx(0.88)
    assert plan.metric.holdout_drop.value == pytest.approx(0.12)
    assert plan.metric.holdout_drop.low < 0.12 < plan.metric.holdout_drop.high


def test_a_missed_target_is_an_answer_with_a_reason(tmp_path: Path) -> None:
    plan = plan_for(fake_task(), tmp_path / "j", Target(metric=1.01))
    assert not plan.met
    assert (
        plan.reason
        == "the float model itself reaches 1.0000 on confirm, below the target of 1.0100"
    )
    assert "quantization-aware training" in plan.try_next
    assert plan.metric.confirm.value == 1.0


def test_a_batch_is_cut_in_every_array_that_it_holds() -> None:
    Pair = namedtuple("Pair", "a b")
    x = np.arange(12.0).reshape(6, 2)
    cut = first_samples({"x": (x, [x]), "pair": Pair(x, 3), "scale": np.float64(2)}, 4)
    assert cut["x"][0].shape == cut["x"][1][0].shape == cut["pair"].a.shape == (4, 2)
    assert (cut["pair"].b, cut["scale"]) == (3, 2)
