"""The cost planner and the exhaustive planner, compared with brute force."""

from __future__ import annotations

from itertools import combinations, pairwise, product

import numpy as np
import pytest
from support.planner_instances import Instance, instance

from sensitivity.errors import SensitivityError
from sensitivity.planners.base import Goal, Judged
from sensitivity.planners.cost import DOUBT, FINALISTS, CostPlanner, probed
from sensitivity.planners.exhaustive import ExhaustivePlanner
from sensitivity.planners.greedy import GreedyPlanner
from sensitivity.planners.loss_model import Weights, first_guess, fitted
from sensitivity.planners.pinned import PinnedPlanner, given
from sensitivity.planners.program import Program, _Rows
from sensitivity.records import Border, CostModel

UNITS = ("a", "b", "c", "d")


def judged_by(loss, allowed: float):
    def judge(skip: tuple[str, ...]) -> Judged:
        lost = loss(frozenset(skip))
        return Judged(1 - lost, lost <= allowed, 100)

    return judge


def excess(one: Instance) -> float:
    """The cost of the planner's plan as a multiple of the best plan's; the plan must meet its
    target."""
    choice = CostPlanner().choose(one.ranking, one.judge, one.goal)
    assert choice.met
    assert one.loss(frozenset(choice.skip)) <= one.allowed
    return one.cost.of(choice.skip) / one.best_cost() - 1


def test_cost_is_within_one_percent_of_brute_force_in_95_of_100_instances_with_interactions() -> (
    None
):
    excesses = np.array([excess(instance(seed, largest=10)) for seed in range(60)])
    assert np.mean(excesses <= 0.01) >= 0.95, f"worst: {np.sort(excesses)[-5:]}"
    assert np.median(excesses) == pytest.approx(0)


def test_cost_never_costs_more_than_greedy() -> None:
    for seed in range(200, 210):
        one = instance(seed, largest=10)
        ours = CostPlanner().choose(one.ranking, one.judge, one.goal)
        greedy = GreedyPlanner().choose(one.ranking, one.judge, one.goal)
        assert one.cost.of(ours.skip) <= one.cost.of(greedy.skip) + 1e-12


def added_cost(seed: int, units: int = 24, luck: float = 0.12) -> float:
    """The cost that the cost planner's plan adds to everything in INT8, as a fraction of what
    greedy's plan adds, where each set's loss has random luck, as a metric on few samples has."""
    rng = np.random.default_rng(seed)
    names = tuple(f"u{number}" for number in range(units))
    own = rng.lognormal(0, 1.2, units)
    own /= own.sum()
    cost = CostModel(
        "table",
        "ms",
        1.0,
        dict(zip(names, map(float, rng.lognormal(-3, 0.8, units)), strict=True)),
        (),
    )
    signal = own * rng.lognormal(0, 0.7, units)

    def loss(skip: frozenset[str]) -> float:
        left = sum(value for name, value in zip(names, own, strict=True) if name not in skip)
        chance = np.random.default_rng([seed, *sorted(int(name[1:]) for name in skip)]).normal()
        return left + (luck * chance if 0 < len(skip) < units else 0.0)

    goal = Goal(0.85, 1.0, cost, dict(zip(names, signal, strict=True)))
    ranking = [names[at] for at in np.argsort(-signal)]
    plans = [
        planner.choose(ranking, judged_by(loss, 0.15), goal)
        for planner in (CostPlanner(), GreedyPlanner())
    ]
    assert all(plan.met and loss(frozenset(plan.skip)) <= 0.15 for plan in plans)
    return (cost.of(plans[0].skip) - 1.0) / (cost.of(plans[1].skip) - 1.0)


def test_luck_of_few_samples_does_not_end_the_search() -> None:
    """A model of the loss without luck takes luck for interactions, sees no hope, and stops where
    greedy does."""
    assert np.mean([added_cost(seed) for seed in range(2)]) < 0.85


def test_exhaustive_finds_what_brute_force_finds() -> None:
    for seed in range(20):
        one = instance(seed, largest=7)
        choice = ExhaustivePlanner().choose(one.ranking, one.judge, one.goal)
        assert choice.met
        assert one.cost.of(choice.skip) == pytest.approx(one.best_cost())


def test_exhaustive_refuses_what_it_cannot_finish() -> None:
    units = [f"u{index}" for index in range(13)]
    with pytest.raises(
        SensitivityError,
        match=r"at most 12 units for --planner exhaustive, .* got 13 \(8,192 skip-sets\)",
    ):
        ExhaustivePlanner().choose(units, lambda skip: Judged(0, False, 1), Goal(1.0, 1.0))


def test_a_layer_that_matters_only_once_another_is_out_is_found() -> None:
    """Skipping `b` alone gains nothing, and skipping `a` alone not enough: only both together meet
    the target, however expensive they are."""

    def loss(skip: frozenset[str]) -> float:
        return 0.5 if "a" not in skip else 0.2 if "b" not in skip else 0.0

    cost = CostModel("table", "ms", 1.0, {"a": 0.3, "b": 0.2, "c": 0.01, "d": 0.01})
    alone = {"a": 0.5, "b": 0.2, "c": 0.05, "d": 0.05}
    choice = CostPlanner().choose(
        ["a", "c", "d", "b"], judged_by(loss, 0.1), Goal(0.9, 1.0, cost, alone)
    )
    assert (set(choice.skip), choice.met) == ({"a", "b"}, True)


def test_units_that_are_faster_in_float_are_left_out_even_where_accuracy_does_not_ask_for_it() -> (
    None
):
    cost = CostModel("table", "ms", 1.0, {"a": 0.3, "b": -0.2, "c": 0.1, "d": 0.1})
    choice = CostPlanner().choose(UNITS, judged_by(lambda skip: 0.0, 0.1), Goal(0.9, 1.0, cost, {}))
    assert choice.skip == ("b",)


def test_two_neighbours_are_cheaper_than_two_strangers_where_borders_cost() -> None:
    chain = tuple(Border(a, b, 0.12) for a, b in pairwise(UNITS))
    cost = CostModel("table", "ms", 1.0, dict.fromkeys(UNITS, 0.1), chain)
    choice = CostPlanner().choose(
        UNITS,
        judged_by(lambda skip: 0.1 * (4 - len(skip)), 0.2),
        Goal(0.8, 1.0, cost, dict.fromkeys(UNITS, 0.1)),
    )
    assert set(choice.skip) in ({"a", "b"}, {"c", "d"})


def test_a_target_that_nothing_meets_gives_the_best_set_tried_and_says_so() -> None:
    choice = CostPlanner().choose(
        UNITS, judged_by(lambda skip: 1 - 0.1 * len(skip), 0.1), Goal(0.9, 1.0)
    )
    assert not choice.met
    assert choice.skip == UNITS


def test_of_the_plans_that_meet_the_target_the_one_with_the_fastest_engine_is_taken() -> None:
    cost = CostModel("table", "ms", 1.0, {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4})
    truth = {("a",): 3.0, ("b",): 2.0}

    def probe(skips):
        return [truth.get(skip, 5.0) for skip in skips]

    judge = judged_by(lambda skip: 0.0 if skip & {"a", "b"} else 1.0, 0.1)
    goal = Goal(0.9, 1.0, cost, {"a": 1.0, "b": 1.0}, probe)
    choice = CostPlanner().choose(UNITS, judge, goal)
    assert choice.skip == ("b",) or choice.ms[choice.skip] == min(choice.ms.values())
    assert choice.ms[choice.skip] <= 3.0


def test_the_smallest_set_is_measured_too_where_the_cost_model_calls_large_ones_cheaper() -> None:
    units = tuple("abcdefgh")
    cost = CostModel("engine", "ms", 1.0, dict.fromkeys(units, -0.1) | {"a": 0.1})

    def probe(skips):
        return [1.0 + 0.1 * len(skip) for skip in skips]

    judge = judged_by(lambda skip: 0.0 if "a" in skip else 1.0, 0.1)
    choice = CostPlanner().choose(units[::-1], judge, Goal(0.9, 1.0, cost, {"a": 1.0}, probe))
    assert choice.skip == ("a",)
    assert any(len(skip) > 4 for skip in choice.ms), "the cost model was believed as well"


@pytest.mark.parametrize("measured", [True, False])
def test_sets_within_the_error_of_the_cost_are_judged_only_where_their_engines_will_tell(
    measured: bool,
) -> None:
    cost = CostModel("engine", "ms", 1.0, {"a": 0.1, "b": 0.15, "c": 0.4, "d": 0.4}, error=0.1)
    judge = judged_by(lambda skip: 0.4 * len({"a", "b"} - skip), 0.5)
    probe = (lambda skips: [1.0 if skip == ("b",) else 2.0 for skip in skips]) if measured else None
    choice = CostPlanner().choose(UNITS, judge, Goal(0.5, 1.0, cost, {"a": 1.0, "b": 1.0}, probe))
    assert choice.skip == (("b",) if measured else ("a",))
    assert any(step.skip == ("b",) for step in choice.path) == measured


def test_of_many_plans_the_fastest_engines_are_measured_again() -> None:
    units = tuple(f"u{number}" for number in range(12))
    asked: list[list[tuple[str, ...]]] = []

    def probe(skips):
        """Luck favours the first set that is asked for; the second time it is gone."""
        asked.append(list(skips))
        return [
            0.5 if len(asked) == 1 and at == 0 else 1.0 + 0.01 * len(skip)
            for at, skip in enumerate(skips)
        ]

    cost = CostModel("engine", "ms", 1.0, dict.fromkeys(units, 0.01), error=0.02)
    judge = judged_by(lambda skip: 0.2 - 0.1 * len(skip), 0.1)
    choice = CostPlanner().choose(
        units, judge, Goal(0.9, 1.0, cost, dict.fromkeys(units, 1.0), probe)
    )
    many, few = asked
    assert len(many) > len(few) == FINALISTS
    assert many[0] in few
    assert set(choice.ms) == set(few)
    assert choice.ms[choice.skip] == 1.01, "what was measured again counts"


@pytest.mark.parametrize(("gain", "skip"), [(0.005, ()), (0.05, ("b",))])
def test_a_layer_is_not_left_out_for_what_may_be_luck_where_everything_in_int8_meets(
    gain: float, skip: tuple
) -> None:
    """Leaving `b` out is predicted to be faster. Sets that are predicted to be more expensive are
    not even judged."""
    cost = CostModel("engine", "ms", 1.0, {"a": 0.05, "b": -0.05, "c": 0.05, "d": 0.05}, error=0.1)
    goal = Goal(0.9, 1.0, cost, {}, lambda skips: [1.0 - gain * ("b" in skip) for skip in skips])
    choice = CostPlanner().choose(UNITS, judged_by(lambda skip: 0.0, 0.1), goal)
    assert choice.skip == skip
    assert {step.skip for step in choice.path} - {UNITS} == {(), ("b",)}


@pytest.mark.parametrize(("ms", "skip"), [(1.99, ("a",)), (1.9, ("b", "c"))])
def test_of_plans_as_fast_as_each_other_the_smallest_is_taken(
    ms: float, skip: tuple[str, ...]
) -> None:
    cost = CostModel("engine", "ms", 1.0, {"a": 0.3, "b": 0.1, "c": 0.1, "d": 0.4}, error=0.2)
    judge = judged_by(
        lambda skip: 0.4 - 0.4 * len({"a"} & skip) - 0.2 * len({"b", "c"} & skip), 0.1
    )
    goal = Goal(
        0.9,
        1.0,
        cost,
        {"a": 0.4, "b": 0.2, "c": 0.2},
        lambda skips: [ms if "a" not in s else 2.0 for s in skips],
    )
    assert CostPlanner().choose(UNITS, judge, goal).skip == skip


def test_everything_in_int8_is_measured_again_with_the_fastest() -> None:
    skips = [(unit,) for unit in "hgfedcba"] + [()]
    goal = Goal(0.9, 1.0, probe=lambda skips: [1.0 - 0.001 * len("".join(skip)) for skip in skips])
    ms = probed(skips, goal)
    assert (ms[()], len(ms)) == (1.0, FINALISTS + 1)


def every_set(units: int) -> np.ndarray:
    """bool[2 ** units, units]"""
    return np.array(list(product([True, False], repeat=units)))


@pytest.mark.parametrize("scale", [0.1, 1.0, 40.0])
def test_a_first_guess_shares_the_whole_loss_by_what_each_costs_alone(scale: float) -> None:
    assert first_guess([3 * scale, scale], 0.8) == pytest.approx([0.6, 0.2])
    assert first_guess([0.0, 0.0], 0.8) == pytest.approx([0.4, 0.4])


def test_sure_sets_and_cheap_sets_are_asked_for_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """If one kind names none, the other kind is asked."""
    asked: list[str] = []
    answers = iter([("a",), ("b",), ("c",), ("d",)])

    def cheapest(self, *_: object) -> tuple[str, ...] | None:
        asked.append("cheap")
        return next(answers, None)

    def surest(self, *_: object) -> tuple[str, ...] | None:
        asked.append("sure")
        return next(answers, None)

    monkeypatch.setattr(Program, "cheapest", cheapest)
    monkeypatch.setattr(Program, "surest", surest)
    judge = judged_by(lambda skip: 0.2 - 0.1 * len(skip), 0.15)
    CostPlanner().choose(UNITS, judge, Goal(0.85, 1.0))
    assert asked == ["cheap", "sure", "cheap", "sure", *["cheap"] * len(DOUBT), "sure", "sure"]


def test_where_every_unit_is_pinned_the_pins_are_the_plan() -> None:
    judge = judged_by(lambda _: 0.1, 0.2)
    choice = PinnedPlanner(CostPlanner(), ("b",), ("a", "c")).choose("abc", judge, Goal(0.8, 1.0))
    assert (choice.skip, choice.met) == (("b",), True)


def test_the_loss_model_repeats_what_it_was_asked_and_learns_a_pair() -> None:
    quantized = every_set(3)
    losses = quantized.sum(axis=1) * 0.1 + 0.3 * quantized[:, 0] * quantized[:, 1]
    known = fitted(first_guess([1.0, 1.0, 1.0], 0.6), quantized, losses)
    assert known.seen.dtype == np.float64
    assert known.weights.loss(quantized) == pytest.approx(losses, abs=5e-3)
    assert known.weights.pairs[0, 1] > 0.1 > abs(known.weights.pairs[0, 2])
    assert known.error > 0


def test_the_loss_model_does_not_take_luck_for_interactions() -> None:
    """The metric of few samples: luck moves each set's loss, and says nothing about other sets."""
    rng = np.random.default_rng(0)
    quantized = every_set(6)
    truth = quantized @ np.linspace(0.02, 0.3, 6)
    known = fitted(first_guess(np.ones(6), 1.0), quantized, truth + rng.normal(0, 0.1, len(truth)))
    off = known.weights.loss(quantized) - truth
    assert off.std() < 0.05
    assert known.error == pytest.approx(0.1, rel=0.3)


def test_the_doubt_of_the_loss_model_is_that_of_a_gaussian_process() -> None:
    """Compared with scikit-learn's regression with the same kernel, in explicit features of units
    and pairs."""
    gaussian_process = pytest.importorskip("sklearn.gaussian_process")
    rng = np.random.default_rng(1)
    guess, sets = rng.uniform(0.05, 0.3, 5), every_set(5)
    order = rng.permutation(len(sets))
    seen, new = sets[order[:12]], sets[order[12:]]
    losses = seen @ guess + 0.3 * seen[:, 0] * seen[:, 3] + rng.normal(0, 0.02, len(seen))
    known = fitted(guess, seen, losses)
    upper = np.triu_indices(5, 1)

    def features(one: np.ndarray) -> np.ndarray:
        pairs = (one[:, upper[0]] * one[:, upper[1]]) * np.sqrt(known.kernel.pairs[upper])
        return np.hstack([one * np.sqrt(known.kernel.units), pairs])

    linear = gaussian_process.kernels.DotProduct(sigma_0=0.0, sigma_0_bounds="fixed")
    theirs = gaussian_process.GaussianProcessRegressor(linear, alpha=known.noise**2, optimizer=None)
    mean, deviation = theirs.fit(features(seen), losses - seen @ guess).predict(
        features(new), return_std=True
    )
    assert known.weights.loss(new) == pytest.approx(mean + new @ guess, abs=1e-6)
    assert known.doubt(new) == pytest.approx(np.hypot(deviation, known.noise), rel=1e-4)


def test_a_program_names_the_set_that_loses_least_within_a_cost() -> None:
    weights = Weights(np.array([0.5, 0.3, 0.1, 0.0]), np.zeros((4, 4)))
    program = Program(
        UNITS, CostModel("table", "ms", 1.0, {"a": 0.4, "b": 0.2, "c": 0.1, "d": 0.1}, ())
    )
    assert program.surest(weights, [], below=1.35) == ("b", "c")
    assert program.surest(weights, [frozenset("bc")], below=1.35) in {("b",), ("b", "d")}
    assert set(program.surest(weights, [], below=1.45)) - {"d"} == {"a"}
    assert program.surest(weights, [frozenset()], below=1.05) is None


def test_a_program_counts_a_border_to_the_outside_where_the_unit_stays_in_int8() -> None:
    """Everything outside the units runs in float, like the units that are left out."""
    weights = Weights(np.array([0.5, 0.3]), np.zeros((2, 2)))
    for a, b in ("a", ""), ("", "a"):
        cost = CostModel("table", "ms", 1.0, {"a": 0.4, "b": 0.2}, (Border(a, b, 0.3),))
        program = Program(("a", "b"), cost)
        # Cut: () at 1.3 and ("b",) at 1.5. Not cut: ("a",) at 1.4 and ("a", "b") at 1.6.
        assert program.cheapest(weights, 1.0, [], below=10.0) == ()
        assert program.cheapest(weights, 1.0, [frozenset()], below=10.0) == ("a",)
        assert program.surest(weights, [], below=1.35) == ()
        assert program.surest(weights, [], below=1.45) == ("a",)
        assert program.surest(weights, [], below=1.7) == ("a", "b")
        assert program.surest(weights, [frozenset("ab"), frozenset("a")], below=1.7) == ("b",)
        assert program.surest(weights, [frozenset("ab"), frozenset("a")], below=1.49) == ()


def test_a_program_has_no_answer_where_every_set_was_tried() -> None:
    weights = fitted(first_guess([1.0], 1.0), np.array([[True]]), np.array([1.0])).weights
    program = Program(("a",), None)
    assert program.cheapest(weights, 0.1, [], below=10.0) == ("a",)
    assert program.cheapest(weights, 0.1, [frozenset({"a"})], below=10.0) is None
    assert program.cheapest(weights, 2.0, [frozenset({"a"})], below=10.0) == ()


def test_a_path_that_is_not_monotone_is_noticed() -> None:
    metrics = {(): 0.0, ("a",): 0.9, ("a", "b"): 0.5}
    judge = lambda skip: Judged(metrics.get(skip, 1.0), metrics.get(skip, 1.0) >= 0.95, 100)  # noqa: E731
    choice = GreedyPlanner().choose(UNITS, judge, Goal(0.95, 1.0))
    (note,) = choice.notes
    assert note == (
        "Leaving out more is not always better here: the accuracy on confirm falls with b left out "
        "besides a."
    )


def test_with_pins_the_cost_of_the_rest_is_that_of_the_whole() -> None:
    for seed in range(20):
        one = instance(seed, largest=7)
        skip, keep, *free = [(unit,) for unit in one.units]
        left = given(one.cost, skip, keep)
        assert set(left.units) == {unit for (unit,) in free}
        for size in range(len(free) + 1):
            for chosen in combinations([unit for (unit,) in free], size):
                assert left.of(chosen) == pytest.approx(one.cost.of((*chosen, *skip)))


@pytest.mark.parametrize("ends", [("", "conv"), ("conv", "")])
def test_a_border_to_the_outside_stays_one_whichever_end_is_named_first(ends) -> None:
    cost = CostModel("table", "ms", 1.0, {"conv": 0.5, "fc": 0.5}, (Border(*ends, 0.25),))
    left = given(cost, [], ["fc"])
    assert [border.cost for border in left.borders] == [0.25]
    # What is outside runs in float, so the border is paid where the unit is in INT8.
    assert left.of([]) == cost.of([]) == 1.25
    assert left.of(["conv"]) == cost.of(["conv"]) == 1.5


@pytest.mark.parametrize("heavier", [True, False])
def test_a_product_in_a_program_says_that_neither_unit_is_skipped(heavier: bool) -> None:
    rows = _Rows(3)
    rows.both(0, 1, 2, heavier=heavier)
    constraint = rows.constraint()
    for i, j in product((0, 1), repeat=2):
        values = [z for z in (0, 1) if (constraint.A @ [z, i, j] <= constraint.ub).all()]
        neither = int(not i and not j)
        assert values == ([z for z in (0, 1) if z >= neither] if heavier else [*range(neither + 1)])


def test_a_pinned_plan_is_the_cheapest_one_that_obeys() -> None:
    one = instance(3, largest=7)
    skip, keep = one.units[:1], one.units[1:2]
    choice = PinnedPlanner(ExhaustivePlanner(), skip, keep).choose(one.ranking, one.judge, one.goal)
    sets = [
        frozenset(c) for size in range(len(one.units) + 1) for c in combinations(one.units, size)
    ]
    obeys = [s for s in sets if s >= set(skip) and not s & set(keep) and one.loss(s) <= one.allowed]
    assert choice.met == bool(obeys)
    if obeys:
        assert one.cost.of(choice.skip) == pytest.approx(min(map(one.cost.of, obeys)))
