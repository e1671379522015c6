"""The true drop from counted answers and float's own probabilities, compared with worlds whose
truth is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from statsmodels.regression.linear_model import OLS

from sensitivity.stats.proof import chance_below
from sensitivity.stats.soft_drop import (
    BELIEF,
    FAIR,
    FLIP,
    NEAR,
    OFFSET,
    OWN,
    Line,
    line_of,
    true_drop,
)

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
    line = line_of(list(counted), list(soft))
    drops = [true_drop(lost, moved, line) for lost, moved in zip(counted, soft, strict=True)]
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
        line, truth = line_of(list(counted), list(soft)), world.truth()
        for at in np.flatnonzero(truth < 0.05):
            found = true_drop(counted[at], soft[at], line)
            inside.append(found.low <= truth[at] <= found.high)
            ours.append(found.value - truth[at])
            counting.append(counted[at].mean() - truth[at])
    assert np.mean(inside) >= 0.94
    assert np.mean(np.square(ours)) < 0.4 * np.mean(np.square(counting))


def test_labels_of_a_set_count_twice_only_against_its_own_deviation() -> None:
    """Three independent normal errors: of the line with the sampling error, of this set, and of
    counting. The counted drop says something of the second alone, worked out here as the mean and
    variance of one normal value given another."""
    lost = np.array([1.0] * 6 + [-1.0] * 3 + [0.0] * 191)
    soft = np.array([0.1] * 9 + [0.0] * 191)
    line = Line(0.02, 1.2, (0.03**2, 0.1**2), -0.001)
    found = true_drop(lost, soft, line)
    believed = np.where(soft > 0, 0.02 + 1.2 * soft, 0.0)
    sampling = _error(believed, 0.02 + 1.2 * FLIP) ** 2
    features = np.array([9 / 200, 0.0045])
    of_line = features @ np.array([[0.03**2, -0.001], [-0.001, 0.1**2]]) @ features
    own, counting = (1.2 * 0.0045 * OWN) ** 2, _error(lost, 1.0) ** 2
    gain = own / (own + counting)
    assert believed.mean() == pytest.approx(0.0063)
    assert found.value == pytest.approx(0.0063 + gain * (0.015 - 0.0063))
    left = (1 - gain) ** 2 * (of_line + sampling) + gain**2 * counting + (1 - gain) ** 2 * own
    assert found.high - found.value == pytest.approx(1.959964 * math.sqrt(left), rel=1e-6)
    assert found.n == 200


def _error(values: np.ndarray, unseen: float) -> float:
    """Of the mean of these and of one more that lost `unseen`, its square alone."""
    square = np.mean(np.append(values, unseen) ** 2)
    return math.sqrt((square - values.mean() ** 2) / len(values))


def test_the_line_is_the_least_squares_line_through_all_changed_answers() -> None:
    """As statsmodels fits it, with standard errors that allow for answers of the same sample. So
    many answers leave little of the prior."""
    rng = np.random.default_rng(3)
    counted, soft = World(1.3, np.ones(3), 0.3 * np.exp(-0.3 * np.arange(3))).samples(rng, 40_000)
    found = line_of(list(counted), list(soft))
    changed = {
        (sample, moved): lost
        for losts, softs in zip(counted, soft, strict=True)
        for sample, (lost, moved) in enumerate(zip(losts, softs, strict=True))
        if moved
    }
    samples, moved = np.array(list(changed)).T
    design = np.stack([np.ones(len(moved)), moved], axis=1)
    fit = OLS(np.array(list(changed.values())), design).fit(
        cov_type="cluster", cov_kwds={"groups": samples.astype(int)}
    )
    off = np.array([found.offset, found.slope]) - fit.params
    assert (np.abs(off) < 0.15 * fit.bse).all()
    weights = (soft**2).sum(axis=1)
    scatter = OWN * found.slope * np.linalg.norm(weights) / weights.sum()
    wanted = fit.bse[0], math.hypot(fit.bse[1], scatter)
    assert np.sqrt(found.variances) == pytest.approx(wanted, rel=0.1)
    assert found.slope == pytest.approx(1.3, abs=0.1)


def test_one_changed_answer_moves_the_line_by_what_its_prior_allows() -> None:
    """It was believed to lose 0.4 and lost 1. Worked out by hand for the only direction that it
    says anything about; ten of eleven answers are fair bets, whose variance is 1."""
    found = line_of([[1.0, 0.0]], [[0.4, 0.0]])
    prior = OFFSET**2 + (0.4 * BELIEF) ** 2
    trust = prior / (prior + FAIR / (FAIR + 1))
    shift = trust * 0.6 / prior
    assert found.offset == pytest.approx(shift * OFFSET**2)
    assert found.slope == pytest.approx(1 + shift * 0.4 * BELIEF**2)
    assert found.offset + 0.4 * found.slope == pytest.approx(0.4 + trust * 0.6)
    left = found.variance(np.array([0.4])) - (0.4 * OWN * found.slope) ** 2
    assert left == pytest.approx(prior * (1 - trust))


def test_the_unit_of_the_score_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    counted, soft = World(1.2, np.ones(4), 0.2 * np.ones(4)).samples(rng, 300)
    line, other = line_of(counted, soft), line_of(100 * counted, 100 * soft, full_scale=100.0)
    assert other.offset == pytest.approx(line.offset)
    assert other.variances == pytest.approx(line.variances)
    drop = true_drop(counted[0], soft[0], line)
    scaled = true_drop(100 * counted[0], 100 * soft[0], other, full_scale=100.0)
    assert (scaled.low, scaled.high) == pytest.approx((100 * drop.ends[0], 100 * drop.ends[1]))


def test_an_answer_that_several_sets_give_counts_once() -> None:
    lost, soft = [1.0, 0.0, 0.0, -1.0], [0.4, 0.2, 0.0, 0.1]
    once, thrice = line_of([lost], [soft]), line_of([lost] * 3, [soft] * 3)
    assert (once.offset, once.slope) == (thrice.offset, thrice.slope)
    assert once.covariance == thrice.covariance


def test_sets_of_which_only_the_first_samples_were_seen_count_too() -> None:
    whole, part = [1.0, 0.0, 0.0, 0.0], [0.0, 1.0]
    soft, believed = [0.4, 0.2, 0.0, 0.0], [0.3, 0.6]
    found = line_of([whole, part], [soft, believed])
    assert found == line_of([whole, [*part, 0.0, 0.0]], [soft, [*believed, 0.0, 0.0]])
    assert found != line_of([whole], [soft])


def close_answers(
    rng: np.random.Generator, more: float, n: int = 500
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], float]:
    """What float's second best answers lose where they are close, counted and believed; the same
    for a repaired set, which gives a quarter of them; and what that set really loses.

    more: what an answer loses besides what is believed.
    """
    margin = rng.beta(1.2, 2.2, n)
    right, luck = np.clip(margin + more, -0.7, 0.7), rng.random(n)
    counted = np.where(luck < (0.7 + right) / 2, 1.0, np.where(luck < 0.7, -1.0, 0.0))
    close = margin < 0.3
    given = close & (rng.random(n) < 0.25)
    truth = 0.25 * float(np.mean(np.where(close, margin + more, 0.0)))
    return (counted * close, margin * close), (counted * given, margin * given), truth


def test_close_answers_of_float_tell_what_a_repaired_set_loses() -> None:
    """In worlds in which each changed answer loses more or less than believed, by 0.05 or so."""
    alone, told, inside = [], [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        ties, answers, truth = close_answers(rng, rng.normal(0, 0.05))
        without = true_drop(*answers, line_of([answers[0]], [answers[1]]))
        found = true_drop(*answers, line_of([ties[0], answers[0]], [ties[1], answers[1]]))
        alone.append(without.value - truth)
        told.append(found.value - truth)
        inside.append(found.low <= truth <= found.high)
    assert np.mean(np.square(told)) < 0.8 * np.mean(np.square(alone))
    assert abs(np.mean(told)) < 0.001
    assert np.mean(inside) >= 0.93


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


def test_an_answer_between_two_equal_ones_loses_nothing_whatever_the_offset() -> None:
    """Which of two equal answers comes first is arbitrary; from NEAR on all of the offset is
    lost."""
    line = Line(offset=0.1)
    counted = np.zeros(1000)
    drops, errors = [], []
    for moved in (NEAR / 10, NEAR):
        soft = np.where(np.arange(1000) < 100, moved, 0.0)
        np.testing.assert_allclose(line.believed(soft).mean(), 0.1 * (moved + 0.1 * moved / NEAR))
        drops.append(true_drop(counted, soft, line).value)
        errors.append(math.sqrt(line.variance(soft)))
    assert drops[0] < drops[1] / 5
    assert errors[0] == pytest.approx(errors[1] / 10)


@pytest.mark.parametrize("ties", [2, 3, 5, 9, 20])
def test_a_few_close_answers_that_happen_to_agree_do_not_outweigh_belief(ties: int) -> None:
    """Answers of a float model that is exactly as sure as it should be: the line must cover what a
    changed answer with a soft drop of 0.1 loses."""
    rng = np.random.default_rng(ties)
    inside = []
    for _ in range(400):
        believed = rng.uniform(0, 0.3, ties)
        counted = np.where(rng.random(ties) < (1 + believed) / 2, 1.0, -1.0)
        line = line_of([counted], [believed])
        off = line.offset + line.slope * 0.1 - 0.1
        inside.append(abs(off) < 1.96 * math.sqrt(line.variance(np.array([0.1]))))
    assert np.mean(inside) >= 0.92


@pytest.mark.parametrize("line", [Line(), Line(0.64, -0.001), Line(-0.2, 0.3)])
def test_no_line_makes_an_answer_that_was_never_seen_harmless(line: Line) -> None:
    found = true_drop(np.zeros(600), np.zeros(600), line)
    assert found.high >= true_drop(np.zeros(600), np.zeros(600)).high > 0.0005


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


def test_a_line_of_different_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="losses and soft drops of the same samples"):
        line_of([[0.0, 1.0]], [[0.0]])


@pytest.mark.parametrize("n", [50, 100, 250])
def test_a_timid_model_is_judged_by_what_was_counted(n: int) -> None:
    """It gives its right answers so little belief that losing one is a tenth of a soft drop: what
    is really lost is ten times that, far from what a model of usual boldness loses."""
    rng = np.random.default_rng(0)
    answers, inside, wrongly_met = [], [], []
    for _ in range(300):
        worst = (rng.random(n) < 0.45).astype(float)
        lost = (rng.random(n) < 0.25).astype(float)
        soft = [each * rng.uniform(0.05, 0.15, n) for each in (worst, lost)]
        line = line_of([worst, lost], soft)
        drop = true_drop(lost, soft[1], line)
        answers.append(line.offset + 0.1 * line.slope)
        inside.append(drop.low <= 0.25 <= drop.high)
        wrongly_met.append(chance_below(drop, 0.2) >= 0.8)
    assert np.mean(answers) == pytest.approx(1, rel=0.06)
    assert np.mean(inside) > 0.88
    assert np.mean(wrongly_met) < 0.12
