"""Statistics of one look: against independent implementations and hand-worked cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from sensitivity.stats.jackknife import pseudo_values
from sensitivity.stats.paired import differs, mean_estimate, paired_effect

finite = st.floats(-1e3, 1e3)


def test_the_effect_of_equal_scores_is_zero_and_its_interval_is_not_empty() -> None:
    scores = [1.0, 0.0, 1.0, 1.0] * 25
    effect = paired_effect(scores, scores)
    assert effect.value == 0
    assert effect.low < 0 < effect.high, (
        "100 equal samples do not prove that no sample in the population changes"
    )


def test_the_binary_interval_is_that_of_bonett_and_price_by_hand() -> None:
    # 30 samples: 6 gained, 1 lost. p12 = 7/32, p21 = 2/32, centre 5/32, half = 1.96 * sqrt((9/32 -
    # 25/1024) / 32).
    base = [0.0] * 6 + [1.0] + [1.0] * 23
    other = [1.0] * 6 + [0.0] + [1.0] * 23
    effect = paired_effect(base, other)
    assert effect.value == pytest.approx(5 / 30)
    half = 1.959964 * np.sqrt((9 / 32 - 25 / 1024) / 32)
    assert effect.low == pytest.approx(5 / 32 - half, abs=1e-6)
    assert effect.high == pytest.approx(5 / 32 + half, abs=1e-6)


def test_the_binary_interval_covers_a_known_effect_in_about_95_of_100_runs() -> None:
    rng = np.random.default_rng(0)
    change = rng.choice([-1.0, 0.0, 1.0], p=[0.02, 0.90, 0.08], size=(2000, 200))
    effects = [paired_effect(np.zeros(200), row) for row in change]
    covered = np.mean([e.low <= 0.06 <= e.high for e in effects])
    assert 0.93 <= covered <= 0.985


@given(
    st.lists(st.tuples(finite, finite), min_size=2, max_size=30).filter(
        lambda p: len({b - a for a, b in p}) > 1
    )
)
def test_other_scores_get_the_interval_of_scipys_paired_t_test(
    pairs: list[tuple[float, float]],
) -> None:
    base, other = np.array(pairs).T
    if np.isin(other - base, (-1.0, 0.0, 1.0)).all():
        return
    expected = stats.ttest_rel(other, base).confidence_interval(0.95)
    effect = paired_effect(base, other)
    assert effect.low == pytest.approx(expected.low, rel=1e-6, abs=1e-9)
    assert effect.high == pytest.approx(expected.high, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("right", [0, 3, 50])
def test_an_accuracy_gets_wilsons_interval_as_in_statsmodels(right: int) -> None:
    estimate = mean_estimate([1.0] * right + [0.0] * (50 - right))
    low, high = proportion_confint(right, 50, method="wilson")
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-9)


def test_one_sample_has_no_interval() -> None:
    assert mean_estimate([0.5]).low is None
    assert paired_effect([0.0], [1.0]).high is None


def test_scores_of_other_samples_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"Expected scores of the same samples, got shapes \(2,\) and \(3,\)"
    ):
        paired_effect([1.0, 0.0], [1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="Expected finite scores"):
        mean_estimate([1.0, float("nan")])


def test_variants_that_differ_in_one_sample_of_a_hundred_cannot_be_told_apart() -> None:
    base = np.zeros(100)
    one, many = base.copy(), base.copy()
    one[0], many[:20] = 1, 1
    assert not differs(base, one)
    assert differs(base, many)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50))
def test_pseudo_values_of_a_mean_are_the_scores(scores: list[float]) -> None:
    assert pseudo_values(np.array(scores), lambda s: float(np.mean(s))) == pytest.approx(
        scores, abs=1e-9
    )


def test_each_of_many_samples_has_a_pseudo_value_if_it_is_asked_for() -> None:
    scores = np.arange(300.0)
    assert len(pseudo_values(scores, lambda s: float(np.mean(s)))) == 200
    each = pseudo_values(scores, lambda s: float(np.mean(s)), most=300)
    np.testing.assert_allclose(each, scores, atol=1e-9)


def test_pseudo_values_give_the_standard_error_that_a_bootstrap_gives() -> None:
    rng = np.random.default_rng(0)
    scores = rng.gamma(2.0, size=(300, 2))

    def ratio(rows: np.ndarray) -> float:
        return float(rows[:, 0].sum() / rows[:, 1].sum())

    values = pseudo_values(scores, ratio)
    bootstrap = np.std([ratio(scores[rng.integers(0, 300, 300)]) for _ in range(2000)])
    assert stats.sem(values) == pytest.approx(bootstrap, rel=0.1)
