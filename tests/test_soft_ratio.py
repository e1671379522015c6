"""The ratio of real to soft drop, for metrics that are no mean over samples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sensitivity.stats.proof import chance_below
from sensitivity.stats.soft_drop import OWN, true_drop
from sensitivity.stats.soft_ratio import SPREAD, USUAL, Ratio, ratio_of


def world(
    rng: np.random.Generator, slope: float, n: int = 90, sets: int = 8, noise: float = 0.05
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counted losses and soft drops float[sets, n], and the real drop of each set. Sets share the
    luck of their samples, which is larger where more is lost."""
    means = 0.03 * np.exp(-0.4 * np.arange(sets))
    soft = means[:, None] * rng.gamma(1.0, size=n) * rng.gamma(4, 1 / 4, (sets, n))
    truth = slope * means * rng.normal(1, OWN, sets)
    luck = noise * (0.8 * rng.standard_t(5, n) + 0.6 * rng.standard_t(5, (sets, n)))
    return truth[:, None] + luck * np.sqrt(means / means[0])[:, None], soft, truth


def test_many_labels_tell_the_ratio_and_few_do_not() -> None:
    rng = np.random.default_rng(0)
    few, many = (ratio_of(*map(list, world(rng, 0.7, n, noise=0.2)[:2])) for n in (30, 30_000))
    assert abs(few.slope - USUAL) < 0.1
    assert many.slope == pytest.approx(0.7, abs=0.2)
    assert math.sqrt(many.doubt) < math.sqrt(few.doubt)


def test_the_ratio_is_the_posterior_of_a_normal_prior() -> None:
    """Worked out by hand for one set of four samples."""
    lost, soft = np.array([0.03, 0.0, 0.01, 0.02]), np.array([0.02, 0.03, 0.02, 0.03])
    found = ratio_of([lost], [soft])
    slope = 0.015 / 0.025
    noise = np.sum((lost - slope * soft) ** 2) / (4 * 3) / 0.025**2
    trust = SPREAD**2 / (SPREAD**2 + noise)
    assert found.slope == pytest.approx(USUAL + trust * (slope - USUAL))
    assert found.doubt == pytest.approx((1 - trust) * SPREAD**2 + (OWN * found.slope) ** 2)


@pytest.mark.parametrize("counted", [[0.5], []], ids=["one sample", "none"])
def test_one_sample_says_nothing(counted: list[float]) -> None:
    sets = [counted] if counted else []
    found = ratio_of(sets, [[0.1]] if counted else [])
    assert found.slope == USUAL
    assert found.doubt >= SPREAD**2
    assert true_drop([0.1], [0.1], found).high > 0.08


def test_sets_that_move_nothing_tell_nothing() -> None:
    assert ratio_of([[0.1, 0.2]], [[0.0, 0.0]]) == Ratio()
    drop = true_drop(np.zeros(50), np.zeros(50), Ratio())
    assert (drop.value, drop.n) == (0, 50)
    assert 0.0001 < drop.high < 0.002


def test_the_stated_probability_is_kept_where_the_cheapest_set_is_chosen() -> None:
    """Detectors whose ratio is drawn from the prior, with 90 labelled images and 8 sets each."""
    kept, by_counting, inside, tried = [], [], [], 500
    for seed in range(tried):
        rng = np.random.default_rng(seed)
        counted, soft, truth = world(rng, float(rng.normal(USUAL, SPREAD)))
        ratio = ratio_of(list(counted), list(soft))
        drops = [true_drop(lost, moved, ratio) for lost, moved in zip(counted, soft, strict=True)]
        inside.extend(d.low <= t <= d.high for d, t in zip(drops, truth, strict=True))
        sure = [k for k, drop in enumerate(drops) if (chance_below(drop, 0.005) or 0) >= 0.8]
        lucky = [k for k, lost in enumerate(counted) if lost.mean() <= 0.005]
        if sure:
            kept.append(truth[sure[0]] <= 0.005)
        if lucky:
            by_counting.append(truth[lucky[0]] <= 0.005)
    assert len(kept) > 0.9 * tried
    assert np.mean(kept) >= 0.8 - 2 * math.sqrt(0.16 / len(kept))
    assert np.mean(by_counting) < 0.7
    assert np.mean(inside) > 0.92


def test_losses_and_soft_drops_of_different_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="losses and soft drops of the same samples"):
        ratio_of([[0.0, 1.0]], [[0.0]])
