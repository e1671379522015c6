"""No unit hides another: noise over float's own spread, by output and group of channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.studies import study_of

from sensitivity.errors import ModelError
from sensitivity.journal.journal import open_journal
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.raced import measured_signal
from sensitivity.signals.channels import groups_of
from sensitivity.signals.distortion import SQNR, by_spread, sqnr
from sensitivity.tasks.base import Task
from sensitivity.testing.fakes import FakeModel, FakeSimulator

RANDOM = np.random.default_rng(0)


def detector(images: int = 4, anchors: int = 50) -> np.ndarray:
    """Float32[images, 4 + 6, anchors]: boxes in pixels beside probabilities, most of them near
    0."""
    pixels = RANDOM.uniform(0, 640, (images, 4, anchors))
    return np.concatenate([pixels, RANDOM.beta(0.05, 3, (images, 6, anchors))], axis=1).astype(
        np.float32
    )


def channels(batches: list[list[np.ndarray]]) -> list[tuple[int, list[int] | None]]:
    return [
        (group.output, None if group.channels is None else group.channels.tolist())
        for group in groups_of(batches)
    ]


def test_pixels_and_probabilities_of_one_array_are_two_groups_on_whatever_axis() -> None:
    found = detector()
    assert channels([[found]]) == [(0, [4, 5, 6, 7, 8, 9]), (0, [0, 1, 2, 3])]
    assert channels([[np.swapaxes(found, 1, 2)]]) == [(0, [4, 5, 6, 7, 8, 9]), (0, [0, 1, 2, 3])]


def test_the_noise_of_a_group_is_taken_over_floats_own_spread_in_it() -> None:
    """The value against one that is computed another way, channel by channel."""
    found = detector()
    moved = found + RANDOM.normal(0, 2.0, found.shape).astype(np.float32)
    wanted = []
    for image in range(len(found)):
        ratios = []
        for part in (range(4), range(4, 10)):
            spread = np.mean([np.var(found[:, channel].astype(np.float64)) for channel in part])
            errors = [
                moved[image, channel].astype(np.float64) - found[image, channel] for channel in part
            ]
            noise = np.mean([error**2 for channel in errors for error in channel])
            ratios.append(noise / spread)
        wanted.append(np.mean(ratios))
    assert by_spread([[found[:3]], [found[3:]]])([found], [moved]) == pytest.approx(
        wanted, rel=1e-5
    )


def test_probabilities_count_as_much_as_the_pixels_beside_them() -> None:
    found = detector()
    no_object, two_pixels = found.copy(), found.copy()
    no_object[:, 4:] = 0
    two_pixels[:, :4] += 2
    signal = by_spread([[found]])
    assert signal([found], [no_object]).min() > 100 * signal([found], [two_pixels]).max()
    assert sqnr([found], [no_object]).max() < sqnr([found], [two_pixels]).min(), (
        "which one vector gets wrong"
    )


def test_two_outputs_of_very_different_scale_count_the_same() -> None:
    small, large = RANDOM.normal(0, 1e-3, (16, 5)), RANDOM.normal(0, 1e3, (16, 5))
    signal = by_spread([[small, large]])
    ruined_small, ruined_large = (
        signal([small, large], [0 * small, large]),
        signal([small, large], [small, 0 * large]),
    )
    assert ruined_small.mean() == pytest.approx(0.5, rel=0.2)
    assert ruined_large.mean() == pytest.approx(0.5, rel=0.2)


def test_an_offset_does_not_hide_a_channel() -> None:
    """A temperature of 300 K that varies by 5, and a yield that varies by 0.1."""
    kelvin, grams = 300 + 5 * RANDOM.normal(size=(64, 1)), 0.1 * RANDOM.normal(size=(64, 1))
    both = np.concatenate([kelvin, grams], axis=1)
    (mean_kelvin,) = by_spread([[both]])([both], [both + np.array([5.0, 0.0])]).mean(keepdims=True)
    assert mean_kelvin == pytest.approx(0.5, rel=0.3), "one spread of one of two groups"


@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 5))
def test_a_classifier_has_the_signal_that_it_always_had(
    classes: int, images: int, seed: int
) -> None:
    logits, noise = np.random.default_rng(seed).normal(0, 3, (2, images, classes))
    for one in (logits, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)):
        assert (
            by_spread([[one], [one]])([one], [one + noise]).tolist()
            == sqnr([one], [one + noise]).tolist()
        )


def test_rare_probabilities_are_no_unit_of_their_own() -> None:
    probabilities = np.full((20, 3), 0.5) * [1.0, 1.0, 1e-7]
    assert channels([[probabilities]]) == [(0, None)]


def test_a_map_of_one_unit_is_one_group() -> None:
    assert channels(
        [[RANDOM.normal(0, 1, (2, 8, 9, 9)) * np.linspace(0.2, 3, 8)[:, None, None]]]
    ) == [(0, None)]


def test_an_output_that_float_always_gives_as_0_counts_as_noise_where_it_is_not() -> None:
    silent, loud = np.zeros((2, 3)), RANDOM.normal(size=(2, 3))
    assert by_spread([[silent, loud]])(
        [silent, loud], [silent + np.array([[0], [1]]), loud]
    ).tolist() == [0.0, 0.5]


def test_values_that_are_not_finite_are_refused_before_they_are_compared() -> None:
    with pytest.raises(ModelError, match="Expected finite outputs"):
        by_spread([[np.array([[np.inf]])]])


def test_float_runs_on_all_of_the_data_before_the_first_comparison(tmp_path: Path) -> None:
    """Batches of one sample say nothing of a spread; all samples of the signal do. The journal has
    its own key."""

    class TwoUnits(FakeModel):
        """A large output that `pixels` disturbs a little, and a small one that `sure` ruins."""

        def __call__(self, inputs: Any) -> Any:
            on = {
                quantizer.layer for quantizer in self.quantizers if quantizer.name not in self.off
            }
            large = 1000 * inputs + 30 * ("pixels" in on)
            small = (inputs - 0.5) * 2 * ("sure" not in on)
            return np.stack([large, small], axis=1)

    model = TwoUnits({"pixels": 0.1, "sure": 0.1})
    values = np.random.default_rng(1).permutation(np.linspace(0, 1, 32))
    data = {
        split: [(values[i : i + 1], None) for i in range(32)]
        for split in ("rank", "confirm", "holdout")
    }
    task = Task(model, data, lambda outputs, _: outputs[:, 0])
    found = []
    for _ in range(2):
        simulator = FakeSimulator(model)
        with open_journal(tmp_path / "j", {}, resume=True) as journal:
            measurer = Measurer(task, lambda _, simulator=simulator: simulator, journal)
            found.append(measured_signal(study_of(measurer, model), SQNR, 32))
    inputs = values.astype(np.float64)
    assert found[0]["pixels"] == pytest.approx((30**2 / np.var(1000 * inputs)) / 2)
    assert found[0]["sure"] == pytest.approx(
        np.mean((2 * inputs - 1) ** 2) / np.var(2 * inputs) / 2
    )
    assert found[0] == found[1], "and from the journal"
    assert simulator.calls == 0
    assert "rank: sqnr by spread, first 32" in (tmp_path / "j").read_text()
