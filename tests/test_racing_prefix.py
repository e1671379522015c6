"""Which prefix of a ranking to try next."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensitivity.stats.racing_prefix import Tried, next_size, predicted_loss

SIGNALS = st.lists(st.floats(0, 100), min_size=1, max_size=30).map(lambda s: sorted(s, reverse=True))


def search(signal: list[float], losses: list[float], allowed: float) -> list[Tried]:
    """All tries, when a prefix of size k loses losses[k]."""
    tried: list[Tried] = []
    while (size := next_size(signal, tried, allowed)) is not None:
        tried.append(Tried(size, losses[size], 100, losses[size] <= allowed))
    return tried


def test_where_the_loss_follows_the_signal_the_second_try_is_the_answer() -> None:
    signal = [8.0, 4.0, 2.0, 1.0, 0.5, 0.5]
    losses = [0.01 * left for left in (16, 8, 4, 2, 1, 0.5, 0)]
    assert [one.size for one in search(signal, losses, 0.02)] == [0, 3]


def test_a_model_that_meets_the_target_fully_quantized_needs_one_try() -> None:
    assert [one.size for one in search([1.0, 1.0], [0.001, 0.0, 0.0], 0.01)] == [0]


def test_a_miss_is_followed_by_a_longer_prefix() -> None:
    """The signal promised that two units are enough; they are not."""
    sizes = [one.size for one in search([90.0, 6.0, 3.0, 1.0, 1.0], [0.2, 0.05, 0.012, 0.005, 0.001, 0.0], 0.01)]
    assert sizes == [0, 2, 3]


def test_a_prefix_that_met_the_target_easily_is_followed_by_a_shorter_one() -> None:
    """The loss falls faster than the signal: the first answer, everything skipped, is not the shortest."""
    found = search([4.0, 3.0, 2.0, 1.0, 1.0], [0.2, 0.05, 0.004, 0.002, 0.001, 0.0], 0.01)
    assert min(one.size for one in found if one.met) == 2


@given(signal=SIGNALS, data=st.data())
def test_every_search_ends_without_a_size_tried_twice(signal: list[float], data: st.DataObject) -> None:
    losses = data.draw(st.lists(st.floats(-0.1, 1), min_size=len(signal) + 1, max_size=len(signal) + 1))
    sizes = [one.size for one in search(signal, losses, 0.01)]
    assert sizes[0] == 0
    assert len(set(sizes)) == len(sizes)
    assert max(sizes) <= len(signal)


@given(signal=SIGNALS, data=st.data())
def test_a_search_without_success_has_tried_to_skip_everything(signal: list[float], data: st.DataObject) -> None:
    losses = data.draw(st.lists(st.floats(0.02, 1), min_size=len(signal) + 1, max_size=len(signal) + 1))
    assert search(signal, losses, 0.01)[-1].size == len(signal)


def test_a_target_above_float_is_found_out_in_two_tries() -> None:
    assert [one.size for one in search([3.0, 2.0, 1.0], [0.2, 0.1, 0.05, 0.0], -0.01)] == [0, 3]


def test_near_tries_with_many_samples_weigh_most() -> None:
    left = np.array([16.0, 8.0, 4.0, 2.0, 0.0])
    far, near = Tried(0, 0.32, 100, False), Tried(2, 0.04, 100, False)
    assert predicted_loss(left, [near], 3) == pytest.approx(0.02)
    assert predicted_loss(left, [far], 3) == pytest.approx(0.04)
    assert predicted_loss(left, [far, near], 3) < 0.03
    assert predicted_loss(left, [far, near], 4) == 0


def test_a_signal_that_is_no_signal_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected a finite signal >= 0 for each unit"):
        next_size([1.0, -1.0], [], 0.01)
