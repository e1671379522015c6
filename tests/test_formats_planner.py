"""Planners that choose among 8 bits, FP8, activations of 16 bits and float for each unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import pytest

from sensitivity.planners.base import Choice, Goal, Judge, Judged, Planner, Skip
from sensitivity.planners.cost import CostPlanner
from sensitivity.planners.culprits import CulpritPlanner
from sensitivity.planners.exhaustive import ExhaustivePlanner
from sensitivity.planners.formats import FormatsPlanner, cost_of_steps, set_of_steps
from sensitivity.planners.greedy import GreedyPlanner
from sensitivity.planners.interpolated import InterpolatedPlanner
from sensitivity.planners.pinned import PinnedPlanner
from sensitivity.records import Border, CostModel, cost_of, fp8_name, parts_of_set, wide_name
from sensitivity.search.formats import chains_of, cheaper_by_steps, order_of_steps
from sensitivity.search.rerank import Order

# What each unit loses in 8 bits, and with activations of 16 bits: of `weights` its weights lose it.
LOSS = {"weights": (5.0, 5.0), "first": (8.0, 0.5), "second": (3.0, 0.1), "silent": (0.0, 0.0)}
UNITS = Order(tuple(LOSS), {unit: loss for unit, (loss, _) in LOSS.items()})
SPARED = {wide_name(unit): 1 - b / a if a else 0.0 for unit, (a, b) in LOSS.items()}
CHAINS = chains_of(SPARED)
STEPS = order_of_steps(UNITS, CHAINS, SPARED)
FLOOR, START = 9.0, 10.0
GOAL = Goal(FLOOR, START, loss=UNITS.signal)


def loss_of(names: Iterable[str]) -> float:
    skip, wide, _ = parts_of_set(names)
    assert not set(skip) & set(wide), "a unit has one format"
    kept = sum(loss for unit, (loss, _) in LOSS.items() if unit not in (*skip, *wide))
    return kept + sum(LOSS[unit][1] for unit in wide)


def judge(names: Skip) -> Judged:
    metric = START - loss_of(names)
    return Judged(metric, metric >= FLOOR, 100)


def test_the_names_of_a_set_say_who_is_in_float_and_who_has_16_bits() -> None:
    set_of = partial(set_of_steps, chains={one: (wide_name(one),) for one in "ab"})
    first = {one: wide_name(one) for one in "ab"}
    assert set_of([first["a"]]) == set_of(["a"]) == (first["a"],)
    assert set_of([first["b"], "a", "b", "c"]) == ("b", "c", first["a"])


def test_the_steps_of_a_unit_cost_together_what_float_costs_and_borders_come_with_the_first() -> (
    None
):
    cost = CostModel("macs", "work", 2.0, {"a": 8.0, "b": 3.0}, (Border("a", "", 1.0),))
    steps = cost_of_steps(cost, {"a": (wide_name("a"),)})
    assert steps.units == {wide_name("a"): 1.0, "a": 7.0, "b": 3.0}
    assert steps.borders == (Border(wide_name("a"), "", 1.0),)
    assert cost.of([wide_name("a")]) == 2 + 1
    assert cost.of(["a", "b"]) == steps.of([wide_name("a"), "a", "b"]) == 2 + 8 + 3
    assert cost_of([wide_name("a"), "b"], None) == 1.125


def test_steps_that_bring_most_for_what_they_cost_come_first() -> None:
    wide = [wide_name(unit) for unit in ("first", "second")]
    together = [wide_name("weights"), "weights"]
    assert list(STEPS.units[:4]) == [*wide, *together]
    assert STEPS.units.index("first") < STEPS.units.index("second")
    assert {unit: STEPS.signal[unit] + STEPS.signal[wide_name(unit)] for unit in LOSS} == (
        pytest.approx(UNITS.signal)
    )


def test_of_steps_that_bring_the_same_those_of_the_cheaper_unit_come_first() -> None:
    order = Order(("large", "small", "free"), {"large": 4.0, "small": 2.0, "free": 0.001})
    cost = CostModel("macs", "work", 0.0, {"large": 80.0, "small": 20.0, "free": 0.0})
    spared = {wide_name("large"): 0.9, wide_name("small"): 0.9}
    steps = order_of_steps(order, chains_of(spared), spared, cost)
    wide = [wide_name("small"), wide_name("large")]
    assert steps.units == (*wide, "small", "large", "free")
    assert order_of_steps(order, {}, {}, cost).units == ("small", "large", "free")
    assert order_of_steps(order, {}, {}).units == order.units


@pytest.mark.parametrize(
    "made",
    [
        GreedyPlanner,
        CostPlanner,
        ExhaustivePlanner,
        CulpritPlanner,
        lambda: CostPlanner(CulpritPlanner()),
    ],
    ids=["greedy", "cost", "exhaustive", "culprits", "cost-culprits"],
)
def test_every_planner_takes_16_bits_where_they_are_enough(made: Callable[[], Planner]) -> None:
    choice = FormatsPlanner(made(), CHAINS).choose(STEPS.units, judge, GOAL)
    skip, wide, _ = parts_of_set(choice.skip)
    assert (choice.met, set(skip), set(wide)) == (True, {"weights"}, {"first", "second"})


def test_a_prefix_by_the_signal_ends_within_the_target() -> None:
    planner = FormatsPlanner(InterpolatedPlanner(STEPS.signal), CHAINS)
    choice = planner.choose(STEPS.units, judge, GOAL)
    assert choice.met
    assert cost_of(choice.skip, None) < cost_of(["weights", "first", "second"], None)


def test_units_that_the_user_leaves_out_are_in_float_in_every_set() -> None:
    tried = []

    def remembering(names: Skip) -> Judged:
        tried.append(names)
        return judge(names)

    spared = {wide_name(unit): 0.9 for unit in LOSS if unit != "first"}
    chains = chains_of(spared)
    steps = order_of_steps(UNITS, chains, spared)
    planner = FormatsPlanner(PinnedPlanner(GreedyPlanner(), ["first"], []), chains)
    choice = planner.choose(steps.units, remembering, GOAL)
    assert choice.met
    assert all("first" in names for names in tried)


def with_steps(taken: Judge) -> tuple[Choice, Choice]:
    """What greedy finds among units, and what it takes once it has looked among steps."""
    before = GreedyPlanner().choose(UNITS.units, taken, GOAL)
    planner = FormatsPlanner(GreedyPlanner(), CHAINS)
    return before, cheaper_by_steps(before, STEPS, planner, taken, GOAL)


def test_16_bits_are_taken_where_they_cost_less_than_the_plan_in_float() -> None:
    before, found = with_steps(judge)
    assert (cost_of(before.skip, None), cost_of(found.skip, None)) == (3.0, 1.25)
    assert {frozenset(step.skip) for step in before.path} < {
        frozenset(step.skip) for step in found.path
    }


def test_a_plan_by_cost_takes_small_units_where_a_large_one_brings_as_much() -> None:
    loss = {"large": 3.0, "small": 2.0, "smaller": 1.5}
    cost = CostModel("macs", "work", 0.0, {"large": 100.0, "small": 10.0, "smaller": 10.0})
    order = Order(tuple(loss), loss)
    goal = Goal(6.5, START, cost, loss)

    def taken(names: Skip) -> Judged:
        metric = START - sum(lost for unit, lost in loss.items() if unit not in names)
        return Judged(metric, metric >= goal.floor, 100)

    before = GreedyPlanner().choose(order.units, taken, goal)
    steps = FormatsPlanner(GreedyPlanner(), {})
    found = cheaper_by_steps(before, order_of_steps(order, {}, {}, cost), steps, taken, goal)
    assert (before.skip, set(found.skip)) == (("large",), {"small", "smaller"})


def test_a_plan_in_float_stays_where_16_bits_bring_nothing() -> None:
    def deaf(names: Skip) -> Judged:
        return judge(parts_of_set(names)[0])

    before, found = with_steps(deaf)
    assert found.skip == before.skip
    assert (found.met, set(found.skip)) == (True, {"weights", "first", "second"})


# What each unit loses in 8 bits, in FP8 and with activations of 16 bits.
THREE = {
    "outliers": (8.0, 0.2, 6.0),
    "activations": (6.0, 5.0, 0.2),
    "either": (4.0, 0.3, 0.2),
    "weights": (5.0, 5.0, 5.0),
}
OF_THREE = Order(tuple(THREE), {unit: losses[0] for unit, losses in THREE.items()})


def spared_of_three() -> dict[str, float]:
    spared = {}
    for unit, (own, fp8, wide) in THREE.items():
        spared |= {fp8_name(unit): 1 - fp8 / own, wide_name(unit): 1 - wide / own}
    return spared


def judge_of_three(names: Skip) -> Judged:
    skip, wide, fp8 = parts_of_set(names)
    assert len({*skip, *wide, *fp8}) == len(names), "a unit has one format"
    loss = 0.0
    for unit, (own, in_fp8, in_16_bits) in THREE.items():
        loss += {unit in skip: 0.0, unit in wide: in_16_bits, unit in fp8: in_fp8}.get(True, own)
    return Judged(START - loss, START - loss >= FLOOR, 100)


@pytest.mark.parametrize(
    "made", [GreedyPlanner, CostPlanner, ExhaustivePlanner], ids=["greedy", "cost", "exhaustive"]
)
def test_every_planner_takes_the_cheapest_format_that_is_enough(
    made: Callable[[], Planner],
) -> None:
    spared = spared_of_three()
    chains = chains_of(spared)
    assert chains["outliers"] == (fp8_name("outliers"),), "16 bits spare less and cost more"
    assert chains["weights"] == (wide_name("weights"),), "FP8 spares nothing"
    steps = order_of_steps(OF_THREE, chains, spared)
    choice = FormatsPlanner(made(), chains).choose(steps.units, judge_of_three, GOAL)
    skip, wide, fp8 = parts_of_set(choice.skip)
    assert choice.met
    assert (skip, wide, set(fp8)) == (("weights",), ("activations",), {"outliers", "either"})


def test_steps_through_two_formats_cost_together_what_float_costs() -> None:
    cost = CostModel("macs", "work", 2.0, {"a": 16.0}, (Border("a", "", 1.0),))
    chain = fp8_name("a"), wide_name("a")
    steps = cost_of_steps(cost, {"a": chain})
    assert steps.units == {chain[0]: 1.0, chain[1]: 1.0, "a": 14.0}
    assert steps.borders == (Border(chain[0], "", 1.0),)
    assert [cost.of([name]) for name in (*chain, "a")] == [3.0, 4.0, 18.0]
    assert set_of_steps([*chain, "a"], {"a": chain}) == ("a",)
    assert set_of_steps([chain[1], "a"], {"a": chain}) == (chain[1],)
