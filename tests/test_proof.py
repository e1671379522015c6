"""When samples prove that a target holds, against independent implementations and simulated
searches."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from sensitivity.records import Estimate, Target
from sensitivity.stats.paired import paired_effect
from sensitivity.stats.proof import (
    chance_below,
    combined,
    corrected_level,
    judged,
    more_to_settle,
    samples_to_settle,
    shortfall,
    widened,
)
from sensitivity.stats.selection import corrected_drop


@pytest.mark.parametrize(
    ("low", "high", "status"),
    [
        (-0.03, 0.0, "met"),
        (-0.03, 1e-9, "not proven"),
        (-1e-9, 0.03, "not proven"),
        (1e-9, 0.03, "missed"),
    ],
)
def test_a_target_is_proven_only_by_the_whole_interval(
    low: float, high: float, status: str
) -> None:
    assert judged(Estimate((low + high) / 2, low, high, 100), 0.975) == status


def test_without_an_interval_nothing_is_proven() -> None:
    assert judged(Estimate(-0.01, None, None, 1), 0.8) == "not proven"


@pytest.mark.parametrize(
    ("value", "status"), [(-0.85, "met"), (-0.83, "not proven"), (0.85, "missed")]
)
def test_less_confidence_takes_a_part_of_the_interval(value: float, status: str) -> None:
    """A normal value is below its mean plus 0.8416 deviations in four of five cases."""
    assert judged(Estimate(value, value - 1.96, value + 1.96, 100), 0.8) == status


def test_a_chance_is_of_the_side_on_which_the_limit_lies() -> None:
    lopsided = Estimate(0.0, -1.96, 3.92, 50)
    assert chance_below(lopsided, 2.0) == pytest.approx(norm.cdf(1.0), abs=1e-4)
    assert chance_below(lopsided, -1.0) == pytest.approx(norm.cdf(-1.0), abs=1e-4)
    assert (
        chance_below(Estimate(0.5, 0.5, 0.5, 9), 0.5),
        chance_below(Estimate(0.5, None, None, 1), 0.5),
    ) == (1.0, None)


def test_two_parts_with_sides_of_wilson_give_newcombe_s_interval() -> None:
    """Newcombe's interval for p1 - p2 is the same method; a mean of p1 and -p2 with equal weights
    is half of it."""
    ours = []
    for hits, sign in ((56, 1), (48, -1)):
        low, high = proportion_confint(hits, 70, method="wilson")
        sides = sorted((sign * low, sign * high))
        ours.append(Estimate(sign * hits / 70, *sides, 70))
    low, high = confint_proportions_2indep(56, 70, 48, 70, method="newcomb")
    found = combined(ours)
    assert (2 * found.value, found.n) == (pytest.approx(8 / 70), 140)
    assert (2 * found.low, 2 * found.high) == (pytest.approx(low), pytest.approx(high))


def test_one_part_is_itself_and_a_part_without_interval_leaves_none() -> None:
    one = Estimate(0.2, 0.1, 0.35, 40)
    found = combined([one])
    assert (found.value, found.low, found.high, found.n) == pytest.approx((0.2, 0.1, 0.35, 40))
    assert combined([one, Estimate(0.4, None, None, 1)]).low is None


def test_equal_parts_of_one_sample_are_as_good_as_the_whole() -> None:
    values = np.random.default_rng(0).normal(0.01, 0.2, 8000)
    parts = [paired_effect(np.zeros(len(part)), part) for part in np.split(values, [2000])]
    whole, found = paired_effect(np.zeros(8000), values), combined(parts)
    assert found.value == pytest.approx(whole.value)
    assert (found.low, found.high) == (
        pytest.approx(whole.low, abs=2e-4),
        pytest.approx(whole.high, abs=2e-4),
    )


FLOAT = Estimate(0.80, 0.76, 0.84, 400)
LEVEL = Estimate(0.79, 0.75, 0.83, 400)
DROP = Estimate(0.01, -0.01, 0.03, 400)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target(drop=0.02), (-0.01, -0.03, 0.01)),
        (Target(metric=0.70), (-0.09, -0.13, -0.05)),
        (Target(relative=0.05), (-0.03, -0.052, -0.008)),
    ],
    ids=["points", "absolute", "relative"],
)
def test_the_shortfall_is_of_what_each_kind_of_target_asks_for(
    target: Target, expected: tuple[float, ...]
) -> None:
    found = shortfall(target, FLOAT, LEVEL, DROP)
    assert (found.value, found.low, found.high) == pytest.approx(expected)
    assert found.n == 400


def test_a_corrected_level_is_as_far_under_float_as_the_corrected_drop() -> None:
    found = corrected_level(LEVEL, FLOAT, Estimate(0.03, 0.0, 0.06, 400))
    assert (found.value, found.low, found.high) == pytest.approx((0.77, 0.73, 0.81))
    assert found.n == 400


def test_sides_are_only_ever_made_longer() -> None:
    assert widened(Estimate(0.0, 0.0, 0.0, 50), Estimate(0.1, 0.05, 0.2, 50)) == Estimate(
        0.0, -0.05, 0.1, 50
    )


def test_as_many_samples_as_it_says_settle_it_in_four_of_five_cases() -> None:
    rng = np.random.default_rng(1)
    first = paired_effect(np.zeros(100), rng.normal(0.05, 0.5, 100))
    first = Estimate(
        0.05, 0.05 - (first.high - first.value), 0.05 + (first.high - first.value), 100
    )
    needed = samples_to_settle(first, 0.975)
    assert needed
    draws = rng.normal(0.05, (first.high - 0.05) * 10 / 1.96, (2000, needed))
    settled = [judged(paired_effect(np.zeros(needed), draw), 0.975) == "missed" for draw in draws]
    assert np.mean(settled) == pytest.approx(0.8, abs=0.03)
    assert samples_to_settle(Estimate(0.0, -0.1, 0.1, 50), 0.8) is None
    assert samples_to_settle(Estimate(0.1, None, None, 1), 0.8) is None


def test_as_many_more_samples_as_it_says_settle_what_is_known_already() -> None:
    """A normal mean that is known to 0.01, and new samples of it, weighed by their precision."""
    rng, seems, spread = np.random.default_rng(4), -0.012, 0.3
    needed = more_to_settle(Estimate(seems, seems - 0.0196, seems + 0.0196, 300), spread, 0.8)
    assert needed
    own, new = 0.01**-2, needed / spread**2
    means = (own * rng.normal(seems, 0.01, 4000) + new * rng.normal(seems, new**-0.5, 4000)) / (
        own + new
    )
    half = 1.96 * (own + new) ** -0.5
    settled = [judged(Estimate(mean, mean - half, mean + half, 9), 0.8) == "met" for mean in means]
    assert np.mean(settled) == pytest.approx(0.8, abs=0.03)
    assert more_to_settle(Estimate(0.0, -0.1, 0.1, 50), spread, 0.8) is None
    assert more_to_settle(Estimate(-0.1, -0.11, -0.09, 50), spread, 0.8) == 0


@pytest.mark.parametrize("confidence", [0.8, 0.975])
@pytest.mark.parametrize("sets", [1, 12])
def test_a_plan_that_just_misses_is_called_met_no_more_often_than_stated(
    sets: int, confidence: float
) -> None:
    """Nested sets of right and wrong answers; the best one loses just more than is allowed. The
    cheapest that meets on confirm is taken."""
    rng, allowed, runs = np.random.default_rng(2), 0.02, 400
    losses = np.linspace(0.06, allowed + 0.0005, sets) if sets > 1 else np.array([allowed + 0.0005])
    wrong = 0
    for _ in range(runs):
        confirm, holdout = (_answers(rng, losses, n) for n in (300, 200))
        drops = confirm.mean(axis=1)
        met = np.flatnonzero(drops <= allowed)
        if not met.size:
            continue
        chosen = int(met[0])
        plain = paired_effect(np.zeros(300), confirm[chosen])
        if sets > 1:
            table = 1 - confirm
            plain = widened(
                corrected_drop(np.ones(300), table, np.arange(sets), allowed, resamples=100), plain
            )
        drop = combined([plain, paired_effect(np.zeros(200), holdout[chosen])])
        wrong += judged(shortfall(Target(drop=allowed), FLOAT, LEVEL, drop), confidence) == "met"
    assert wrong / runs <= 1 - confidence + 2 * np.sqrt(confidence * (1 - confidence) / runs)


def _answers(rng: np.random.Generator, losses: np.ndarray, n: int) -> np.ndarray:
    """Float minus set, float[sets, n] of -1, 0 and 1: every set gains 2 % of the answers, and loses
    as many more as its loss says."""
    luck = rng.random(n)
    return np.stack(
        [np.where(luck < 0.02, -1.0, np.where(luck > 1 - loss - 0.02, 1.0, 0.0)) for loss in losses]
    )
