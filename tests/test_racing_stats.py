"""Which units belong to the top group, while scores are still coming in."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensitivity.stats.racing import Standing, standing

BATCH = 40


def splits(effects: list[float], size: int, seed: int, changed: float = 0.08) -> np.ndarray:
    """Right or wrong of each unit's variant on a split [units, size] in random order.

    Each unit differs from a common baseline (half right) on about `changed` of the samples; its
    effect is its share of gains over losses.
    """
    rng = np.random.default_rng(seed)
    base = rng.random(size) < 0.5
    draws = rng.random((len(effects), size))
    gain = changed + np.array(effects)[:, None]
    loss = changed - np.array(effects)[:, None]
    return np.where(base, draws >= loss, draws < gain).astype(float)


def race(scores: np.ndarray, k: int, tolerance: float = 0.0) -> tuple[list[Standing], int]:
    """The standings after each batch until settled, and the samples forwarded."""
    units, size = scores.shape
    seen = np.full(scores.shape, np.nan)
    looks: list[Standing] = []
    open_, forwarded = tuple(range(units)), 0
    for start in range(0, size, BATCH):
        stop = min(start + BATCH, size)
        seen[list(open_), start:stop] = scores[list(open_), start:stop]
        forwarded += len(open_) * (stop - start)
        looks.append(standing(seen[:, :stop], k, size, tolerance=tolerance))
        open_ = looks[-1].open
        if not open_:
            break
    return looks, forwarded


def test_a_top_unit_is_dropped_in_at_most_5_percent_of_1000_runs_with_many_looks() -> None:
    """The third and fourth unit are close: the hardest case for the boundary of a top group of
    three."""
    dropped = 0
    for seed in range(1000):
        scores = splits([0.07, 0.05, 0.03, 0.025, 0.0, 0.0, -0.03, -0.06], 160, seed)
        means = scores.mean(axis=1)
        last = race(scores, 3)[0][-1]
        dropped += bool(last.out[means > np.sort(means)[-4]].any())
    assert dropped <= 50


def test_the_whole_split_settles_the_race_with_the_true_top_group() -> None:
    for seed in range(20):
        scores = splits([0.06, 0.03, 0.0, 0.0, 0.0], 200, seed)
        last = race(scores, 2)[0][-1]
        means = scores.mean(axis=1)
        assert last.settled
        assert min(means[list(last.top)]) >= np.sort(means)[-2]


def test_clear_losers_are_dropped_early() -> None:
    scores = splits([0.3, 0.28, *[0.0] * 10], 1000, seed=0, changed=0.3)
    looks, forwarded = race(scores, 2)
    assert looks[-1].settled
    assert set(looks[-1].top) == {0, 1}
    assert forwarded < scores.size / 3


def test_a_tolerance_settles_what_does_not_matter() -> None:
    """Two equal units compete for one place."""
    scores = splits([0.2, 0.0, 0.0], 600, seed=1, changed=0.02)
    scores[0] = splits([0.2], 600, seed=1, changed=0.2)
    strict, loose = race(scores, 2)[1], race(scores, 2, tolerance=0.05)[1]
    assert loose < strict


def test_with_a_tolerance_no_unit_left_out_is_better_by_more_than_it() -> None:
    for seed in range(30):
        scores = splits([0.06, 0.04, 0.03, 0.02, 0.0], 200, seed)
        last = race(scores, 2, tolerance=0.03)[0][-1]
        means = scores.mean(axis=1)
        others = [unit for unit in range(5) if unit not in last.top]
        assert max(means[others]) - min(means[list(last.top)]) <= 0.03 + 1e-9


def test_a_unit_that_is_out_stays_out() -> None:
    for seed in range(20):
        looks, _ = race(
            splits([0.17, 0.15, 0.15, 0.13, 0.0, 0.0, -0.05, -0.2], 400, seed, changed=0.25), 1
        )
        for before, after in itertools.pairwise(looks):
            assert not (before.out & ~after.out).any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), shuffle=st.permutations(range(5)))
def test_the_order_in_which_units_are_listed_does_not_matter(seed: int, shuffle: list[int]) -> None:
    scores = splits([0.3, 0.1, 0.0, -0.1, -0.2], 120, seed, changed=0.3)[:, :100]
    plain, moved = standing(scores, 2, 120), standing(scores[shuffle], 2, 120)
    assert (moved.out == plain.out[shuffle]).all()
    assert moved.settled == plain.settled


def test_a_budget_that_runs_out_still_gives_a_ranking_of_every_unit() -> None:
    looks, _ = race(splits([0.2, 0.1, 0.05, 0.0], 1000, seed=2, changed=0.2), 2)
    assert sorted(looks[0].order) == [0, 1, 2, 3]
    assert not looks[0].settled
    assert set(looks[0].top) == set(looks[0].order[:2])


def test_units_that_are_out_are_ranked_after_those_that_are_not() -> None:
    scores = splits([0.3, 0.28, *[0.0] * 6], 1000, seed=0, changed=0.3)
    last = race(scores, 2)[0][-1]
    outs = [bool(last.out[unit]) for unit in last.order]
    assert outs == sorted(outs)
    assert any(outs)


@pytest.mark.parametrize(
    ("scores", "k", "text"),
    [
        (
            np.zeros((3, 5)),
            3,
            r"Expected scores \[units, n\] and 1 <= k < units, got shape \(3, 5\) and k = 3.",
        ),
        (
            np.array([[0.0, np.nan, 1.0], [0, 0, 0]]),
            1,
            "measured on the first samples of the order, got a gap in row 0.",
        ),
        (
            np.array([[0.0, 1.0], [np.nan, np.nan]]),
            1,
            "measured on the first samples of the order, got a gap in row 1.",
        ),
    ],
)
def test_scores_that_break_the_guarantee_are_refused(scores: np.ndarray, k: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        standing(scores, k, 100)
