"""Which prefix of a ranking to try next."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensitivity.stats.racing_prefix import DRIFT, LUCK, OFFSET, Tried, next_size, predicted_loss

SIGNALS = st.lists(st.floats(0, 100), min_size=1, max_size=30).map(
    lambda s: sorted(s, reverse=True)
)


def search(signal: list[float], losses: list[float], allowed: float) -> list[Tried]:
    """All tries, if a prefix of size k loses losses[k]."""
    tried: list[Tried] = []
    while (size := next_size(signal, tried, allowed)) is not None:
        tried.append(Tried(size, losses[size], 0.0, losses[size] <= allowed))
    return tried


def test_where_the_loss_follows_the_signal_the_second_try_is_the_answer() -> None:
    signal = [8.0, 4.0, 2.0, 1.0, 0.5, 0.5]
    losses = [0.01 * left for left in (16, 8, 4, 2, 1, 0.5, 0)]
    assert [one.size for one in search(signal, losses, 0.038)] == [0, 3]


def test_a_model_that_meets_the_target_fully_quantized_needs_one_try() -> None:
    assert [one.size for one in search([1.0, 1.0], [0.001, 0.0, 0.0], 0.01)] == [0]


def test_a_miss_is_followed_by_a_longer_prefix() -> None:
    """The signal promised that three units are enough; they are not, and the next try is surer than
    that one was."""
    losses = [0.2, 0.05, 0.02, 0.012, 0.005, 0.001, 0.0]
    assert [one.size for one in search([90.0, 6.0, 3.0, 1.0, 1.0, 0.5], losses, 0.01)] == [0, 3, 4]


def test_a_prefix_that_met_the_target_easily_is_followed_by_a_shorter_one() -> None:
    """The loss falls faster than the signal: the first answer, everything skipped, is not the
    shortest."""
    found = search([4.0, 3.0, 2.0, 1.0, 1.0], [0.2, 0.05, 0.004, 0.002, 0.001, 0.0], 0.01)
    assert min(one.size for one in found if one.met) == 2


@settings(deadline=None)
@given(signal=SIGNALS, data=st.data())
def test_every_search_ends_without_a_size_tried_twice(
    signal: list[float], data: st.DataObject
) -> None:
    losses = data.draw(
        st.lists(st.floats(-0.1, 1), min_size=len(signal) + 1, max_size=len(signal) + 1)
    )
    sizes = [one.size for one in search(signal, losses, 0.01)]
    assert sizes[0] == 0
    assert len(set(sizes)) == len(sizes)
    assert max(sizes) <= len(signal)


@settings(deadline=None)
@given(signal=SIGNALS, data=st.data())
def test_a_search_without_success_has_tried_to_skip_everything(
    signal: list[float], data: st.DataObject
) -> None:
    losses = data.draw(
        st.lists(st.floats(0.02, 1), min_size=len(signal) + 1, max_size=len(signal) + 1)
    )
    assert search(signal, losses, 0.01)[-1].size == len(signal)


def test_a_target_above_float_is_found_out_in_two_tries() -> None:
    assert [one.size for one in search([3.0, 2.0, 1.0], [0.2, 0.1, 0.05, 0.0], -0.01)] == [0, 3]


def test_a_try_that_few_samples_condemned_moves_the_search_less_than_one_measured_whole() -> None:
    signal = [100.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.1]
    start = Tried(0, 0.3, 0.05, False)
    sizes = [
        next_size(signal, [start, Tried(2, 0.05, error, False)], 0.01) for error in (0.0, 0.05)
    ]
    assert sizes[1] < sizes[0]


def test_losses_are_predicted_from_the_tries_as_exactly_as_these_are_known() -> None:
    signal = [8.0, 4.0, 2.0, 1.0, 0.5, 0.5]
    tries = [Tried(0, 0.16, 0.0, False), Tried(2, 0.06, 0.0, False)]
    loss, error = predicted_loss(signal, tries, 0.01)
    assert loss[[0, 2]] == pytest.approx([0.16, 0.06], abs=2e-3)
    assert loss[6] == pytest.approx(0, abs=1e-6)
    assert error[3] < error[4] * 4
    unsure, wide = predicted_loss(
        signal, [Tried(0, 0.16, 0.0, False), Tried(2, 0.06, 0.1, False)], 0.01
    )
    assert unsure[2] < 0.045, "the signal alone promised 0.04"
    assert wide[2] > error[2]


def test_predictions_agree_with_the_textbook_form_of_gaussian_regression() -> None:
    """One try after the first: the mean and variance of a normal pair, conditioned by hand."""
    signal, allowed = [3.0, 1.0], 0.01
    loss, error = predicted_loss(signal, [Tried(0, 0.08, 0.02, False)], allowed)
    scale, luck = (DRIFT * 0.08) ** 2, (LUCK * allowed) ** 2
    own, cross = scale * OFFSET + 0.02**2 + luck, scale * 0.25 * OFFSET
    # the first try sets the slope, so nothing is left to correct
    assert loss[1] == pytest.approx(0.02)
    variance = scale * 0.25**2 * (OFFSET + np.log(4)) + luck - cross**2 / own
    assert error[1] == pytest.approx(np.sqrt(variance), rel=1e-6)


def test_each_miss_makes_the_search_more_careful_so_that_it_does_not_creep() -> None:
    """Each prefix of up to 29 units misses by a hair, and the signal always says that a few more
    units will do."""
    tries = search([100.0] + [0.1] * 39, [0.2] + [0.0101] * 29 + [0.0] * 11, 0.01)
    assert tries[-1].met
    assert len(tries) <= 6, "thirteen where the same chance is good enough after each miss"


def test_where_more_than_half_of_the_units_are_in_doubt_a_plan_is_followed_by_half_of_it() -> None:
    units = [1.0] * 20
    failed, met = Tried(0, 0.3, 0.0, False), Tried(20, 0.0, 0.0, True)
    assert next_size(units, [failed, met], 0.01) == 10
    assert next_size(units, [failed, met, Tried(10, 0.005, 0.0, True)], 0.01) is None


def test_units_without_any_signal_are_taken_for_equals() -> None:
    assert next_size([0.0] * 4, [Tried(0, 0.08, 0.0, False)], 0.03) in (3, 4)


def test_a_signal_that_is_no_signal_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected a finite signal >= 0 for each unit"):
        next_size([1.0, -1.0], [], 0.01)
