"""The rule by hand as a planner: what it leaves out, and that it is judged like any other
planner."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensitivity import api
from sensitivity.config import PlanSettings, ScanSettings
from sensitivity.planners.base import Goal, Judged
from sensitivity.planners.pinned import PinnedPlanner
from sensitivity.planners.rule import RulePlanner, by_hand
from sensitivity.records import Unit
from sensitivity.run_dir import RunDir

TASK = Path(__file__).parent / "tasks" / "tiny.py"
UNITS = tuple(Unit(name, (f"{name}.q",)) for name in ("stem", "a", "b", "box", "score"))
ENDS = (("stem", "a", "b", "box", "score"), ("box", "b", "a"), ("score", "b"))


def judge_of(floor: float):
    def judge(skip: tuple[str, ...]) -> Judged:
        metric = 0.5 + 0.1 * len(skip)
        return Judged(metric, metric >= floor, 10)

    return judge


def test_without_a_head_the_first_layer_and_the_last_of_each_output_are_left_out() -> None:
    assert by_hand(UNITS, ENDS) == ("stem", "box", "score")
    assert by_hand(UNITS[:1], (("stem",), ("stem",))) == ("stem",)
    assert by_hand(UNITS, ((), ("box",))) == ("box",)


def test_a_detection_head_is_left_out_whole_and_nothing_else() -> None:
    units = (*UNITS[:3], *(Unit(one.name, one.quantizers, "head") for one in UNITS[3:]))
    assert by_hand(units, ENDS) == ("box", "score")


@pytest.mark.parametrize(("floor", "met"), [(0.4, True), (0.8, True), (0.9, False)])
def test_the_rule_is_the_answer_whatever_the_target(floor: float, met: bool) -> None:
    goal = Goal(floor, 1.0, by_hand=("stem", "box", "score"))
    choice = RulePlanner().choose(("score", "b", "stem", "a", "box"), judge_of(floor), goal)
    assert choice.skip == ("score", "stem", "box")  # in the order of the ranking
    assert choice.met is met
    assert [step.skip for step in choice.path] == [(), choice.skip]


def test_units_that_the_user_keeps_are_kept() -> None:
    goal = Goal(0.4, 1.0, by_hand=("stem", "box", "score"))
    planner = PinnedPlanner(RulePlanner(), skip=["b"], keep=["box"])
    choice = planner.choose(("score", "b", "stem", "a", "box"), judge_of(0.4), goal)
    assert choice.skip == ("score", "b", "stem")


def test_a_run_is_planned_by_the_rule_and_says_so(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    api.scan(ScanSettings(task=f"{TASK}:task", out=out))
    plan = api.plan(PlanSettings(directory=out, target=1.0, planner="rule", no_recalibrate=True))
    layers = [unit.name for unit in RunDir(out).info().units]
    assert set(plan.skip) == {layers[0], layers[-1]}
    assert plan.planner == "rule"
