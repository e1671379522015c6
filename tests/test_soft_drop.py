"""The true drop from counted answers and float's own probabilities, compared with worlds whose
truth is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.weightstats import DescrStatsW

from sensitivity.stats.proof import chance_below
from sensitivity.stats.soft_drop import ANSWER, BELIEF, FLIP, OWN, Ratio, ratio_of, true_drop

ALLOWED, CONFIDENCE = 0.01, 0.8


@dataclass(frozen=True)
class World:
    """Nested sets of a classifier, each of which leaves out one layer more.

    boldness: the real loss for each point that float expects to lose.
    own: the boldness of each set, around that.
    noise: of each set, on the margin between the two best answers.
    """

    boldness: float
    own: np.ndarray
    noise: np.ndarray

    @classmethod
    def drawn(cls, rng: np.random.Generator, sets: int = 16) -> World:
        boldness = float(np.clip(rng.normal(1, 0.3), 0.4, 1.8))
        noise = math.sqrt(0.12) * np.exp(-np.arange(sets) * rng.uniform(0.15, 0.4))
        return cls(boldness, rng.normal(1, 0.2, sets), noise)

    def samples(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Counted losses and soft drops, both float[sets, n]. A margin is how much more probable
        float finds its answer than the next one, which the noise may prefer."""
        margin = rng.beta(1.2, 2.2, n)
        push = 0.8 * rng.normal(size=n) + 0.6 * rng.normal(size=(len(self.noise), n))
        changed = np.abs(push) * self.noise[:, None] > margin
        right_more = np.clip(self.boldness * self.own[:, None] * margin, 0, 1)
        one_is_right = np.maximum(0.75, right_more)
        luck = rng.random(n)
        was_right = luck < (one_is_right + right_more) / 2
        counted = np.where(was_right, 1.0, np.where(luck < one_is_right, -1.0, 0.0))
        return counted * changed, changed * margin

    def truth(self) -> np.ndarray:
        """The drop of each set, from many more samples than anybody has."""
        margin, push = many(len(self.noise))
        changed = push * self.noise[:, None] > margin
        return (changed * np.clip(self.boldness * self.own[:, None] * margin, 0, 1)).mean(axis=1)


@cache
def many(sets: int) -> tuple[np.ndarray, np.ndarray]:
    """Margins float[n], and how hard each set pushes at them, float[sets, n]; the same for every
    world."""
    rng = np.random.default_rng(99)
    margin = rng.beta(1.2, 2.2, 12_000)
    return margin, np.abs(0.8 * rng.normal(size=12_000) + 0.6 * rng.normal(size=(sets, 12_000)))


def searched(seed: int, labels: int = 250, rank: int = 250) -> tuple[int | None, int, World]:
    """The cheapest set by the true drop with its confidence, None where there is none, and by the
    drop counted on `confirm`, which takes all else for chance. rank: labelled samples of `rank`,
    which count for the true drop as well."""
    rng = np.random.default_rng(seed)
    world = World.drawn(rng)
    confirmed, (further, more) = world.samples(rng, labels), world.samples(rng, rank)
    counted = np.concatenate([confirmed[0], further], axis=1)
    soft = np.concatenate([confirmed[1], more], axis=1)
    ratio = ratio_of(list(counted), list(soft))
    drops = [true_drop(lost, moved, ratio) for lost, moved in zip(counted, soft, strict=True)]
    sure = [k for k, drop in enumerate(drops) if chance_below(drop, ALLOWED) >= CONFIDENCE]
    lucky = [k for k, lost in enumerate(confirmed[0]) if lost.mean() <= ALLOWED]
    return (sure[0] if sure else None), (lucky[0] if lucky else len(counted) - 1), world


def test_in_a_thousand_searches_the_stated_probability_is_kept() -> None:
    """Choosing the cheapest of 16 sets included."""
    kept, kept_by_counting = [], []
    for seed in range(1000):
        sure, lucky, world = searched(seed)
        truth = world.truth()
        kept_by_counting.append(truth[lucky] <= ALLOWED)
        if sure is not None:
            kept.append(truth[sure] <= ALLOWED)
    assert len(kept) > 900
    assert np.mean(kept) >= CONFIDENCE - 2 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / len(kept))
    assert np.mean(kept_by_counting) < 0.55


def test_intervals_cover_what_they_say_and_the_error_is_a_third() -> None:
    inside, ours, counting = [], [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        world = World.drawn(rng)
        counted, soft = world.samples(rng, 250)
        ratio, truth = ratio_of(list(counted), list(soft)), world.truth()
        for at in np.flatnonzero(truth < 0.05):
            found = true_drop(counted[at], soft[at], ratio)
            inside.append(found.low <= truth[at] <= found.high)
            ours.append(found.value - truth[at])
            counting.append(counted[at].mean() - truth[at])
    assert np.mean(inside) >= 0.94
    assert np.mean(np.square(ours)) < 0.4 * np.mean(np.square(counting))


def test_the_two_estimates_count_by_their_precision() -> None:
    """Compared with weights as statsmodels has them: the inverse of both variances."""
    lost = np.array([1.0] * 6 + [-1.0] * 3 + [0.0] * 191)
    soft = np.array([0.1] * 9 + [0.0] * 191)
    ratio = Ratio(1.2, 0.1)
    found = true_drop(lost, soft, ratio)
    counted_error = _error(lost, 1.0)
    expected, mean = 1.2 * soft.mean(), soft.mean()
    parts = (mean * 0.1, expected * OWN, 1.2 * _error(soft, FLIP), 9 / 200 * ANSWER)
    doubt = math.sqrt(sum(part**2 for part in parts))
    weights = [1 / doubt**2, 1 / counted_error**2]
    pooled = DescrStatsW([expected, lost.mean()], weights=weights)
    assert found.value == pytest.approx(pooled.mean)
    assert found.high - found.value == pytest.approx(1.959964 / math.sqrt(sum(weights)), rel=1e-6)
    assert found.n == 200


def _error(values: np.ndarray, unseen: float) -> float:
    """Of the mean of these and of one more that lost `unseen`, its square alone."""
    square = np.mean(np.append(values, unseen) ** 2)
    return math.sqrt((square - values.mean() ** 2) / len(values))


def test_the_ratio_is_the_line_through_the_origin_nearest_to_all_sets() -> None:
    """As statsmodels fits it, with a normal prior and the scatter of sets about it by hand."""
    rng = np.random.default_rng(3)
    counted, soft = World(1.3, np.ones(16), 0.3 * np.exp(-0.1 * np.arange(16))).samples(rng, 4000)
    found = ratio_of(list(counted), list(soft))
    means = soft.mean(axis=1)
    slope = OLS(counted.mean(axis=1), means).fit().params[0]
    weighted = means @ (counted - slope * soft)
    sampling = stats.sem(weighted, ddof=0) / (means @ means)
    scatter = OWN * slope * np.linalg.norm(means**2) / (means @ means)
    precision = 1 / (sampling**2 + scatter**2) + 1 / BELIEF**2
    assert found.error == pytest.approx(1 / math.sqrt(precision), rel=1e-3)
    own = sampling**2 + scatter**2
    assert found.value == pytest.approx((slope / own + 1 / BELIEF**2) / precision, rel=1e-3)
    assert found.value == pytest.approx(1.3, abs=3 * found.error)


def test_sets_of_which_only_the_first_samples_were_seen_count_too() -> None:
    whole = [np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0, 0.0])]
    soft = [np.array([0.4, 0.2, 0.0, 0.0]), np.array([0.2, 0.6, 0.0, 0.0])]
    part = ratio_of([whole[0], whole[1][:2]], [soft[0], soft[1][:2]])
    # Means of what each was seen on: 1/4 and 1/2 lost, 0.15 and 0.4 believed. What is left over
    # counts by what each set believed to lose.
    squares = 0.15**2 + 0.4**2
    found = (0.15 * 0.25 + 0.4 * 0.5) / squares
    first = 0.15 * (1 - 0.4 * found) / 4 + 0.4 * (0 - 0.2 * found) / 2
    second = 0.15 * (0 - 0.2 * found) / 4 + 0.4 * (1 - 0.6 * found) / 2
    sampling = (first**2 + second**2) / squares**2
    scatter = (OWN * found) ** 2 * (0.15**4 + 0.4**4) / squares**2
    trust = BELIEF**2 / (BELIEF**2 + sampling + scatter)
    assert part.value == pytest.approx(1 + trust * (found - 1))
    assert part.error < BELIEF


def test_many_labels_outweigh_belief_and_few_do_not() -> None:
    rng = np.random.default_rng(0)
    believed = np.where(rng.random(100_000) < 0.05, 0.4, 0.0)
    lost = np.where(believed > 0, np.where(rng.random(100_000) < 0.8, 1.0, -1.0), 0.0)
    few, many = (true_drop(lost[:n], believed[:n]) for n in (100, 100_000))
    assert few.value == pytest.approx(believed[:100].mean(), rel=0.4)
    assert many.value == pytest.approx(0.03, abs=0.002)
    assert many.high - many.low < (few.high - few.low) / 3


def test_a_lucky_count_is_not_believed_more_than_it_is_worth() -> None:
    """Of 250 samples 34 answers changed, and the new ones happened to be right more often: 3.2
    points gained where float believes to lose 0.9. The mirror image of it is taken seriously."""
    soft = np.array([0.066] * 34 + [0.0] * 216)
    gained = np.array([1.0] * 7 + [-1.0] * 15 + [0.0] * 228)
    lucky, unlucky = true_drop(gained, soft), true_drop(-gained, soft)
    assert 0 < lucky.value < soft.mean()
    assert unlucky.value > soft.mean()
    unlucky_by_far = true_drop(np.array([1.0] * 20 + [0.0] * 230), soft)
    assert unlucky_by_far.value > 0.05


def test_a_set_that_changed_no_answer_is_not_known_to_lose_nothing() -> None:
    found = true_drop(np.zeros(250), np.zeros(250))
    assert found.value == 0
    assert 0.001 < found.high < 0.003


@pytest.mark.parametrize(
    ("counted", "soft"), [([], [0.1]), ([0.0], []), ([math.nan], [0.1]), ([[0.0]], [0.1])]
)
def test_what_is_no_sample_is_refused(counted: list[float], soft: list[float]) -> None:
    with pytest.raises(ValueError, match="Expected finite values"):
        true_drop(counted, soft)


def test_a_ratio_of_different_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="losses and soft drops of the same samples"):
        ratio_of([[0.0, 1.0]], [[0.0]])


@pytest.mark.parametrize("n", [50, 100, 250])
def test_a_timid_model_is_judged_by_what_was_counted(n: int) -> None:
    """It gives its right answers so little belief that losing one is a tenth of a soft drop: what
    is really lost is ten times that, far from what a model of usual boldness loses."""
    rng = np.random.default_rng(0)
    ratios, inside, wrongly_met = [], [], []
    for _ in range(300):
        worst = (rng.random(n) < 0.45).astype(float)
        lost = (rng.random(n) < 0.25).astype(float)
        soft = [each * rng.uniform(0.05, 0.15, n) for each in (worst, lost)]
        ratio = ratio_of([worst, lost], soft)
        drop = true_drop(lost, soft[1], ratio)
        ratios.append(ratio.value)
        inside.append(drop.low <= 0.25 <= drop.high)
        wrongly_met.append(chance_below(drop, 0.2) >= 0.8)
    assert np.mean(ratios) == pytest.approx(10, rel=0.06)
    assert np.mean(inside) > 0.88
    assert np.mean(wrongly_met) < 0.12
