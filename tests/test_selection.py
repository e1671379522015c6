"""Statistics of a search: what holdout covers, the cost of choosing, and the samples that a drop
takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm
from statsmodels.stats.power import TTestPower

from sensitivity.planners.base import Goal, Judged
from sensitivity.planners.greedy import GreedyPlanner
from sensitivity.records import Estimate
from sensitivity.stats.paired import paired_effect
from sensitivity.stats.power import samples_needed, spread_of
from sensitivity.stats.selection import corrected_drop

UNITS = tuple(f"u{index}" for index in range(8))
MARGIN = 0.6
"""A sample is right if its margin, which is normal around this, plus the noise of all quantized
units is positive."""


class Simulated:
    """A model whose accuracy with any skip-set is known: noise of each quantized unit, normal,
    moves the margin."""

    def __init__(self, seed: int, n: int) -> None:
        rng = np.random.default_rng(seed)
        self.variance = dict(zip(UNITS, rng.dirichlet(np.full(len(UNITS), 0.4)) * 0.8, strict=True))
        self._splits = {
            split: (rng.normal(MARGIN, 1, n), {unit: rng.standard_normal(n) for unit in UNITS})
            for split in ("confirm", "holdout")
        }

    def scores(self, skip, split: str):
        margin, noise = self._splits[split]
        left = [unit for unit in UNITS if unit not in skip]
        return (
            margin + sum((np.sqrt(self.variance[u]) * noise[u] for u in left), np.zeros(1)) > 0
        ).astype(float)

    def truth(self, skip) -> float:
        return float(
            norm.cdf(MARGIN / math.sqrt(1 + sum(self.variance[u] for u in UNITS if u not in skip)))
        )

    def search(self, allowed: float):
        start = self.scores(UNITS, "confirm").mean()

        def judge(skip) -> Judged:
            metric = self.scores(skip, "confirm").mean()
            return Judged(metric, metric >= start - allowed, 300)

        ranking = sorted(UNITS, key=lambda unit: -self.variance[unit])
        return GreedyPlanner().choose(ranking, judge, Goal(start - allowed, start))


@pytest.fixture(scope="module")
def searches() -> list[dict[str, float]]:
    """500 searches: the true drop of the chosen set, and what confirm, the correction and holdout
    say about it."""
    rows = []
    for seed in range(500):
        model = Simulated(seed, 300)
        choice = model.search(allowed=0.02)
        tried = [step.skip for step in choice.path]
        float_ = {split: model.scores(UNITS, split) for split in ("confirm", "holdout")}
        held = paired_effect(model.scores(choice.skip, "holdout"), float_["holdout"])
        values = [model.scores(skip, "confirm") for skip in tried]
        sizes = [len(skip) for skip in tried]
        corrected = corrected_drop(float_["confirm"], values, sizes, 0.02, resamples=100)
        truth = model.truth(UNITS) - model.truth(choice.skip)
        confirm = float_["confirm"].mean() - model.scores(choice.skip, "confirm").mean()
        row = {
            "truth": truth,
            "low": held.low,
            "high": held.high,
            "confirm": confirm,
            "corrected": corrected.value,
        }
        rows.append(row)
    return rows


def mean(rows, name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def test_holdout_covers_the_truth_in_at_least_93_of_100_searches(searches) -> None:
    covered = np.mean([row["low"] <= row["truth"] <= row["high"] for row in searches])
    assert covered >= 0.93


def test_confirm_is_too_kind_to_what_was_chosen_on_it_and_the_correction_is_not(searches) -> None:
    kind = mean(searches, "truth") - mean(searches, "confirm")
    left = mean(searches, "truth") - mean(searches, "corrected")
    assert kind > 0.004, "choosing flatters by half a point here"
    assert abs(left) < kind / 2


def test_with_one_set_tried_there_is_nothing_to_correct() -> None:
    rng = np.random.default_rng(0)
    base, other = rng.random(200), rng.random(200)
    corrected = corrected_drop(base, [other], [1.0], 0.1)
    assert corrected.value == pytest.approx((base - other).mean(), abs=0.005)
    assert corrected.low < corrected.value < corrected.high


def test_a_search_over_one_evaluation_has_no_interval() -> None:
    assert corrected_drop([0.9], [[0.7], [0.85]], [0, 1], 0.1) == Estimate(
        pytest.approx(0.05), None, None, 1
    )


def test_values_and_costs_must_fit() -> None:
    with pytest.raises(
        ValueError, match=r"values float\[k, n\] and costs float\[k\], got \(1, 2\) and \(2,\)"
    ):
        corrected_drop([1.0, 0.0], [[1.0, 0.0]], [1.0, 2.0], 0.1)


@pytest.mark.parametrize(
    ("drop", "spread"), [(0.01, 0.2), (0.3, 0.2), (0.05, 0.4), (1.0, 0.3), (0.002, 0.5)]
)
def test_samples_needed_agree_with_statsmodels(drop: float, spread: float) -> None:
    theirs = TTestPower().solve_power(
        effect_size=drop / spread, alpha=0.05, power=0.8, alternative="two-sided"
    )
    assert samples_needed(drop, spread) == pytest.approx(
        math.ceil(float(np.ravel(theirs)[0])), abs=2
    )


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3, 0.0501, 1.0, 30.0])
def test_samples_needed_are_found_for_any_spread(spread: float) -> None:
    assert samples_needed(0.05, spread) >= 2


def test_the_spread_is_read_back_from_an_interval() -> None:
    rng = np.random.default_rng(1)
    base, other = rng.normal(0, 1, 4000), rng.normal(0, 1, 4000)
    assert spread_of(paired_effect(base, other)) == pytest.approx(np.sqrt(2), rel=0.03)
    assert spread_of(Estimate(0.1, None, None, 1)) is None
