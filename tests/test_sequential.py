"""Evidence and intervals that may be looked at after every batch."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sensitivity.stats.sequential import (
    STAKES,
    confidence_sequence,
    is_at_least,
    log_evidence,
    lower_bound,
)

RUNS = 1000
SIGNS = st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=2, max_size=40)


def random_orders(split: np.ndarray, runs: int = RUNS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permuted(np.tile(split, (runs, 1)), axis=1)


def changed(n: int, gained: int, lost: int) -> np.ndarray:
    """Differences of right or wrong: mostly zero."""
    return np.repeat([1.0, -1.0, 0.0], [gained, lost, n - gained - lost])


@pytest.mark.parametrize(
    "split",
    [
        pytest.param(changed(300, 20, 5), id="few changes"),
        pytest.param(changed(300, 3, 0), id="three changes"),
        pytest.param(changed(300, 60, 60), id="many changes, no effect"),
        pytest.param(np.random.default_rng(1).uniform(-1, 1, 300), id="continuous"),
    ],
)
def test_the_interval_holds_the_mean_of_the_split_at_every_look_in_95_percent_of_runs(
    split: np.ndarray,
) -> None:
    orders, mean = random_orders(split), split.mean()
    above = log_evidence(orders, mean, 300).max(axis=1)
    below = log_evidence(-orders, -mean, 300).max(axis=1)
    assert np.mean(np.maximum(above, below) >= math.log(2 / 0.05)) <= 0.05


def test_the_interval_for_the_world_holds_its_mean_at_every_look_in_95_percent_of_runs() -> None:
    values = np.random.default_rng(2).choice(
        [-1.0, 0.0, 1.0], p=[0.02, 0.9, 0.08], size=(RUNS, 500)
    )
    above = log_evidence(values, 0.06, None).max(axis=1)
    below = log_evidence(-values, -0.06, None).max(axis=1)
    assert np.mean(np.maximum(above, below) >= math.log(2 / 0.05)) <= 0.05


@pytest.mark.parametrize("population", [500, None], ids=["split", "world"])
def test_unbounded_values_are_covered_at_every_look_in_95_percent_of_runs(
    population: int | None,
) -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_t(6, size=(RUNS, 500)) * 7
    mean = values.mean(axis=1) if population else np.zeros(RUNS)
    above = log_evidence(values, mean, population, bound=None).max(axis=1)
    below = log_evidence(-values, -mean, population, bound=None).max(axis=1)
    assert np.mean(np.maximum(above, below) >= math.log(2 / 0.05)) <= 0.05


def test_a_t_interval_looked_at_after_every_batch_fails_where_the_sequence_holds() -> None:
    """Why this is needed: the same data, 20 looks, and an interval made for one look."""
    values = np.random.default_rng(4).normal(size=(RUNS, 1000))
    outside = np.zeros(RUNS, dtype=bool)
    for n in range(50, 1001, 50):
        outside |= stats.ttest_1samp(values[:, :n], 0.0, axis=1).pvalue < 0.05
    assert np.mean(outside) > 0.15


def test_evidence_of_one_sample_is_worked_by_hand() -> None:
    """A fair mean of 0 on [-1, 1]: the stake doubles when 1 comes, is kept when 0 comes, is lost
    when -1 comes."""
    assert np.exp(log_evidence([1.0], 0.0, None)[0]) == pytest.approx(1 + STAKES.mean())
    assert np.exp(log_evidence([0.0], 0.0, None)[0]) == pytest.approx(1)
    assert np.exp(log_evidence([-1.0], 0.0, None)[0]) == pytest.approx(1 - STAKES.mean())


def test_without_replacement_the_fair_mean_follows_what_was_drawn() -> None:
    """Split of 4 with mean 0: after a 1 the other three must sum to -1, so the second bet is fair
    at -1/3."""
    by_hand = np.mean((1 + STAKES) * (1 + STAKES * (1 / (1 - 1 / 3) - 1)))
    assert np.exp(log_evidence([1.0, 0.0], 0.0, 4)[1]) == pytest.approx(by_hand)


def test_the_wealth_is_that_of_the_authors_own_implementation() -> None:
    """Numbers made once with `betting_mart` of confseq 0.0.11, without replacement, its bets set to
    each of our stakes."""
    values = np.random.default_rng(7).permutation(np.repeat([1.0, -1.0, 0.0], [50, 30, 920]))[:300]
    wealth = log_evidence(values, -0.04, 1000)[[0, 49, 299]]
    assert wealth == pytest.approx(
        [0.01078481454625784, 0.30989583318090347, 4.120453742180781], rel=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(values=SIGNS, threshold=st.floats(-0.95, 0.95))
def test_evidence_is_never_stronger_than_the_exact_binomial_test(
    values: list[float], threshold: float
) -> None:
    """With signs alone the wealth grows with their count, so by Markov's inequality the exact p is
    at most 1 / wealth."""
    signs = np.array([v for v in values if v] or [1.0])
    exact = stats.binomtest(
        int((signs > 0).sum()), signs.size, (1 + threshold) / 2, alternative="greater"
    ).pvalue
    assert exact <= np.exp(-log_evidence(signs, threshold, None)[-1]) + 1e-12


def test_a_large_split_and_the_world_agree() -> None:
    values = random_orders(changed(400, 40, 10), runs=1)[0]
    world, split = confidence_sequence(values, None), confidence_sequence(values, 10**8)
    assert split.low == pytest.approx(world.low, abs=1e-4)
    assert split.high == pytest.approx(world.high, abs=1e-4)


def test_the_interval_is_at_most_three_quarters_wider_than_one_made_for_a_single_look() -> None:
    """The price of looking at any time, half-way through a split of 1,000 with 8 % of samples
    changed."""
    values = random_orders(changed(1000, 50, 30), runs=50)[:, :500]
    width = np.mean(
        [(s.high or 9) - (s.low or -9) for s in (confidence_sequence(row, 1000) for row in values)]
    )
    once = 2 * stats.norm.ppf(0.975) * np.sqrt((0.08 - 0.02**2) / 500 * (1 - 500 / 1000))
    assert once < width < 1.75 * once


@settings(max_examples=60, deadline=None)
@given(values=SIGNS, cut=st.floats(0, 1))
def test_the_interval_holds_the_mean_so_far_and_stays_within_what_is_possible(
    values: list[float], cut: float
) -> None:
    n, size = max(1, round(cut * len(values))), len(values)
    found = confidence_sequence(values[:n], size)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high
    least, most = (sum(values[:n]) - (size - n)) / size, (sum(values[:n]) + (size - n)) / size
    assert least - 1e-5 <= found.low
    assert found.high <= most + 1e-5


@given(values=SIGNS)
def test_once_all_of_the_split_was_seen_the_interval_is_its_mean_and_the_verdict_is_right(
    values: list[float],
) -> None:
    mean = float(np.mean(values))
    found = confidence_sequence(values, len(values))
    assert found.low == pytest.approx(mean)
    assert found.high == pytest.approx(mean)
    assert is_at_least(values, mean, len(values)) == "at least"
    assert is_at_least(values, mean + 1e-6, len(values)) == "below"


@pytest.mark.parametrize(("threshold", "wrong"), [(0.0199, "below"), (0.0201, "at least")])
def test_a_verdict_is_wrong_in_at_most_5_percent_of_runs_whenever_it_is_asked(
    threshold: float, wrong: str
) -> None:
    answers = []
    for row in random_orders(changed(400, 20, 12), runs=300):
        asked = (is_at_least(row[:n], threshold, 400) for n in range(40, 401, 40))
        answers.append(next(answer for answer in asked if answer != "open"))
    assert np.mean([answer == wrong for answer in answers]) <= 0.05


def test_a_clear_verdict_comes_early() -> None:
    """A plan that loses 5 points where 1 is allowed."""
    rows = random_orders(changed(1000, 20, 70), runs=50)
    needed = [
        next(n for n in range(50, 1001, 50) if is_at_least(row[:n], -0.01, 1000) != "open")
        for row in rows
    ]
    assert np.mean(needed) < 450


@pytest.mark.parametrize("bound", [1.0, None])
@pytest.mark.parametrize("population", [400, None])
def test_the_interval_of_what_is_mirrored_is_mirrored(
    population: int | None, bound: float | None
) -> None:
    values = np.random.default_rng(4).uniform(-0.2, 0.6, 200)
    one = confidence_sequence(values, population, bound=bound)
    other = confidence_sequence(-values, population, bound=bound)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))


def test_without_a_bound_the_interval_moves_with_the_values() -> None:
    values = np.random.default_rng(4).normal(0, 1, 300)
    one, other = (confidence_sequence(values + by, 1000, bound=None) for by in (0.0, 5.0))
    assert (other.low, other.high) == pytest.approx((one.low + 5, one.high + 5))


def test_what_the_rest_can_no_longer_change_is_certain() -> None:
    assert is_at_least([1.0, 1.0, 1.0], 0.5, 4) == "at least"
    assert is_at_least([-1.0, -1.0, -1.0], -0.25, 4) == "below"
    assert is_at_least([1.0, 1.0, 1.0], 0.75, 4) == "open"
    assert log_evidence([1.0, 1.0, -1.0], -0.26, 4)[-1] == np.inf


def test_unbounded_values_have_no_bound_before_a_variance_can_be_trusted() -> None:
    found = confidence_sequence(np.random.default_rng(5).normal(size=39), 500, bound=None)
    assert (found.low, found.high) == (None, None)
    assert (
        confidence_sequence(np.random.default_rng(5).normal(size=200), 500, bound=None).low
        is not None
    )


def test_many_rows_are_bounded_as_one_by_one() -> None:
    rows = random_orders(changed(200, 20, 10), runs=4)[:, :120]
    together = lower_bound(rows, 200, alpha=0.05)
    assert together == pytest.approx(
        [float(lower_bound(row, 200, alpha=0.05)) for row in rows], abs=1e-5
    )


@pytest.mark.parametrize(
    ("values", "population", "bound", "text"),
    [
        (
            [0.0, 2.0],
            5,
            1.0,
            "Expected values within 1 of zero, got 2; give their true bound, or None.",
        ),
        (
            [0.0, math.nan],
            5,
            1.0,
            "Expected finite values; leave out samples that were not measured.",
        ),
        ([0.0] * 3, 2, 1.0, r"Expected 1 to 2 samples, the size of the split, got shape \(3,\)."),
        ([], None, 1.0, r"Expected at least 1 sample, got shape \(0,\)."),
    ],
)
def test_values_that_break_the_guarantee_are_refused(
    values: list[float], population: int | None, bound: float, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        log_evidence(values, 0.0, population, bound=bound)
