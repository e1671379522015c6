"""The greedy planner: shortest prefix by bisection, then prune back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensitivity.planners.base import Choice, Goal, Judged, Search
from sensitivity.planners.greedy import GreedyPlanner, climbed
from sensitivity.planners.pinned import PinnedPlanner

UNITS = [f"u{i}" for i in range(16)]


def choose(ranking, evaluate, floor: float):
    def judge(skip: tuple[str, ...]) -> Judged:
        metric = evaluate(skip)
        return Judged(metric, metric >= floor, 100)

    return GreedyPlanner().choose(ranking, judge, Goal(floor, start=floor))


def additive(gains: dict[str, float], base: float = 0.0):
    calls: list[tuple[str, ...]] = []

    def evaluate(skip: tuple[str, ...]) -> float:
        calls.append(skip)
        return base + sum(gains[unit] for unit in skip)

    return evaluate, calls


def test_nothing_is_skipped_when_the_quantized_model_meets_the_target() -> None:
    evaluate, calls = additive(dict.fromkeys(UNITS, 1.0), base=5.0)
    choice = choose(UNITS, evaluate, 5.0)
    assert (choice.skip, choice.met, calls) == ((), True, [()])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=16), st.floats(0, 1))
def test_a_target_that_skipping_everything_meets_is_met(gains: list[float], share: float) -> None:
    ranking = UNITS[: len(gains)]
    gain = dict(zip(ranking, gains, strict=True))
    evaluate, calls = additive(gain)
    floor = share * evaluate(tuple(ranking))
    choice = choose(ranking, evaluate, floor)
    assert choice.met
    assert evaluate(choice.skip) >= floor
    calls.pop()
    assert [step.skip for step in choice.path] == calls[1:], (
        "every evaluation is in the path, none is made twice"
    )


@given(st.sets(st.sampled_from(UNITS)))
def test_units_that_the_target_does_not_need_are_pruned_back(needed: set[str]) -> None:
    def evaluate(skip: tuple[str, ...]) -> float:
        return float(needed <= set(skip))

    choice = choose(UNITS, evaluate, 1.0)
    assert set(choice.skip) == needed


@given(st.sets(st.sampled_from(UNITS), min_size=1))
def test_a_prefix_is_the_shortest_one_and_keeps_what_stands_in_it(needed: set[str]) -> None:
    def judge(skip: tuple[str, ...]) -> Judged:
        return Judged(float(needed <= set(skip)), needed <= set(skip), 100)

    choice = GreedyPlanner(prefix=True).choose(UNITS, judge, Goal(1.0, start=1.0))
    assert choice.skip == tuple(UNITS[: max(map(UNITS.index, needed)) + 1])


def test_bisection_takes_logarithmically_many_evaluations_before_pruning() -> None:
    evaluate, calls = additive(dict.fromkeys(UNITS, 1.0))
    choice = choose(UNITS, evaluate, 9.0)
    assert len(choice.skip) == 9
    before_pruning = [c for c in calls if list(c) == UNITS[: len(c)]]
    assert len(before_pruning) <= 11


def test_a_missed_target_gives_the_best_set_tried() -> None:
    gains = dict(zip(UNITS, [3.0, 2.0, 1.0] + [-0.5] * 13, strict=True))
    evaluate, _ = additive(gains)
    choice = choose(UNITS, evaluate, 100.0)
    assert not choice.met
    assert max(choice.path, key=lambda step: step.metric).skip == choice.skip
    assert choice.skip == ("u0", "u1", "u2", "u3")


def test_a_path_that_is_not_monotone_still_meets_the_target() -> None:
    def evaluate(skip: tuple[str, ...]) -> float:
        return {0: 0.0, 1: 5.0, 2: 1.0, 3: 6.0}.get(len(skip), 6.0)

    choice = choose(UNITS, evaluate, 5.0)
    assert choice.met
    assert evaluate(choice.skip) >= 5.0


def test_of_sets_that_miss_the_target_alike_the_smallest_is_the_best() -> None:
    choice = choose(UNITS, lambda skip: 0.5, 1.0)
    assert (choice.met, choice.skip) == (False, ())


def test_a_planner_of_the_free_units_sees_what_whole_sets_do_to_the_outputs() -> None:
    asked = []

    class Asking:
        name, searches = "asking", True

        def choose(self, ranking, judge, goal):
            assert goal.distortion([("c",), ()]) == [1.0, 2.0]
            return Choice((), judge(()).met, ())

    def distortion(skips):
        asked.extend(skips)
        return [1.0, 2.0]

    planner = PinnedPlanner(Asking(), skip=["b"], keep=["a"])
    planner.choose(
        ["a", "b", "c"], lambda skip: Judged(1.0, True, 10), Goal(0.5, 1.0, distortion=distortion)
    )
    assert asked == [("b", "c"), ("b",)]


def test_engines_of_whole_sets_are_measured_for_a_planner_of_the_free_units() -> None:
    measured = []

    def probe(skips):
        measured.extend(skips)
        return [1.0 for _ in skips]

    goal = Goal(0.5, 1.0, probe=probe).measured_as(lambda skip: (*skip, "pinned"))
    assert goal.probe is not None
    assert goal.probe([("a",), ()]) == [1.0, 1.0]
    assert measured == [("a", "pinned"), ("pinned",)]
    assert Goal(0.5, 1.0).measured_as(lambda skip: skip).probe is None


@pytest.mark.parametrize("searches", [True, False])
def test_a_planner_of_the_free_units_searches_where_its_planner_does(searches: bool) -> None:
    class Other:
        name = "other"

    Other.searches = searches
    assert PinnedPlanner(Other(), [], []).searches is searches
    assert PinnedPlanner(GreedyPlanner(), [], []).searches is True
    assert PinnedPlanner(GreedyPlanner(), [], []).name == "greedy"


@pytest.mark.parametrize(("doubt", "climbs"), [(0.0, True), (0.5, False)])
def test_a_decline_that_may_be_chance_starts_no_search_of_single_units(
    doubt: float, climbs: bool
) -> None:
    """Leaving out more is better, but the second unit of the ranking seems to cost a little."""

    def judge(skip: tuple[str, ...]) -> Judged:
        metric = len(skip) - 1.3 * ("u1" in skip)
        return Judged(metric, len(skip) >= 6, 100, population_error=doubt)

    choice = GreedyPlanner().choose(UNITS, judge, Goal(5.0, start=6.0))
    assert choice.skip == tuple(UNITS[:6])
    assert bool(choice.notes) == climbs
    tried_alone = [step.skip for step in choice.path if step.skip == ("u0", "u2")]
    assert bool(tried_alone) == climbs


def test_units_that_make_it_worse_are_stepped_over_where_the_path_shows_them() -> None:
    """The second unit of the ranking spoils every set that it is in; three others meet the
    target."""

    def evaluate(skip: tuple[str, ...]) -> float:
        return (
            len(set(skip) & {"u0", "u2", "u3"})
            - 2.0 * ("u1" in skip)
            + 0.4 * len(set(skip) & set(UNITS[4:]))
        )

    choice = choose(UNITS, evaluate, 3.0)
    assert choice.met
    assert set(choice.skip) == {"u0", "u2", "u3"}
    assert choice.notes, "and the plan says that its path was not monotone"


def test_of_units_that_stand_for_each_other_the_less_sensitive_goes_back_to_int8() -> None:
    """The last unit is needed, and any one of the others."""

    def evaluate(skip: tuple[str, ...]) -> float:
        return float("u3" in skip and len(skip) > 1)

    assert choose(UNITS[:4], evaluate, 1.0).skip == ("u0", "u3")


def test_climbing_finds_a_set_that_is_smaller_by_one_and_none_of_the_same_size() -> None:
    def judge(skip: tuple[str, ...]) -> Judged:
        return Judged(float(len(skip)), len(skip) >= 2, 100)

    assert climbed(UNITS, Search(judge), 3) == ("u0", "u1")
    assert climbed(UNITS, Search(judge), 2) is None


def test_climbing_finds_nothing_where_the_first_units_miss_the_target() -> None:
    """Only the last of twenty units matters, and climbing looks at the first sixteen."""
    ranking = [f"u{i}" for i in range(20)]

    def judge(skip: tuple[str, ...]) -> Judged:
        return Judged(float("u19" in skip), "u19" in skip, 100)

    assert climbed(ranking, Search(judge), fewer=20) is None
    assert climbed(["u19", *ranking[:19]], Search(judge), fewer=20) == ("u19",)
