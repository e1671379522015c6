"""Targets that a plan answers with a set which was measured before."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reporting_samples import plan, units

from sensitivity import api
from sensitivity.cli.main import main
from sensitivity.config import PlanSettings, ScanSettings, target_of
from sensitivity.records import Estimate, FrontierPoint, TrueDrop
from sensitivity.run_dir import RunDir
from sensitivity.search.frontier import first_that_meets
from sensitivity.search.target_settings import target_settings
from sensitivity.steps.plan_files import choices_of

TASK = Path(__file__).parent / "tasks" / "tiny.py"
PLAN = plan(units(9))
FLOAT = PLAN.metric.float.value


def point(layers: int, drop: float, half: float | None = None, held: bool = True) -> FrontierPoint:
    level = Estimate(FLOAT - drop, None, None, 100)
    true_drop = None if half is None else TrueDrop(drop, drop - half, drop + half, 100)
    names = tuple("abcdefgh"[:layers])
    return FrontierPoint(
        names, level, Estimate(drop, None, None, 100), level if held else None, true_drop=true_drop
    )


def answered(points: list[FrontierPoint], full_scale: float = 1.0) -> list[dict]:
    return [
        {} if asked is None else asked.settings
        for asked in target_settings(points, PLAN, full_scale)
    ]


def test_the_smallest_round_drop_that_a_set_holds_is_asked_for() -> None:
    points = [point(0, 0.031), point(1, 0.034), point(2, 0.0125), point(3, 0.0122)]
    drops = [one.get("max_drop") for one in answered(points)]
    assert drops == ["3.1pt", None, "1.3pt", "1.22pt"]


def test_a_set_that_is_better_than_float_is_asked_for_by_its_metric() -> None:
    asked = target_settings([point(1, 0.01), point(2, -0.02)], PLAN, 1.0)[1]
    assert asked is not None
    assert asked.settings["target"] == pytest.approx(FLOAT + 0.02, abs=2e-3)
    assert asked.allowed < 0


def test_a_true_drop_is_asked_for_with_the_certainty_of_the_plan() -> None:
    (surely,) = answered([point(1, 0.01, half=0.0196)])
    assert surely["max_drop"] == "1.9pt", "0.01 + 0.8416 standard errors of 0.01"
    assert surely["confidence"] == PLAN.target.confidence


def test_a_set_whose_holdout_is_not_known_takes_a_search() -> None:
    assert answered([point(1, 0.01, held=False)]) == [{}]


def test_points_are_hundredths_of_the_full_scale() -> None:
    assert answered([point(1, 0.6)], full_scale=60.0)[0]["max_drop"] == "1.0pt"


DROPS = st.floats(-0.3, 0.5).map(lambda value: round(value, 4))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(DROPS, st.none() | st.floats(0, 0.2)), min_size=1, max_size=8))
def test_each_target_is_answered_with_its_own_set(sets: list[tuple[float, float | None]]) -> None:
    points = [point(layers, drop, half) for layers, (drop, half) in enumerate(sets)]
    for measured, choices in zip(points, answered(points), strict=True):
        if choices:
            target = target_of(PlanSettings(directory=Path(), **choices), 1.0)
            assert first_that_meets(points, target, FLOAT) is measured


@settings(max_examples=100, deadline=None)
@given(st.lists(DROPS, min_size=1, max_size=8, unique=True))
def test_each_set_that_keeps_more_than_all_cheaper_ones_can_be_asked_for(
    drops: list[float],
) -> None:
    answers = answered([point(layers, drop) for layers, drop in enumerate(drops)])
    best = [all(drop < cheaper for cheaper in drops[:index]) for index, drop in enumerate(drops)]
    assert [bool(one) for one in answers] == best


@pytest.mark.parametrize("name", [None, "fast"])
def test_the_command_of_each_choice_makes_it_the_plan(tmp_path: Path, name: str | None) -> None:
    out = tmp_path / "a run"
    api.scan(ScanSettings(task=f"{TASK}:task", out=out))
    api.plan(PlanSettings(directory=out, name=name, target=1.0, no_recalibrate=True))
    run_dir = RunDir(out, name)
    choices = choices_of(run_dir, run_dir.plan())
    commands = {choice.point.skip: choice.command for choice in choices if choice.command}
    assert commands
    assert all("--no-recalibrate" in command for command in commands.values())
    for skip, command in commands.items():
        with pytest.raises(SystemExit):
            main(shlex.split(command)[1:])
        found = RunDir(out).plan()
        assert found.skip == skip
        assert any("Chosen from" in note for note in found.notes)
