"""The signal `boxes`: the loss of the boxes and confidences that a float detector reports."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensitivity.errors import ModelError, TaskError
from sensitivity.signals.boxes import SURE, boxes_signal, distortion, matched


def detector(confidences: Any, boxes: Any = None) -> list[np.ndarray]:
    """One image. confidences: [classes, anchors]; boxes: [anchors, 4], unit squares by default."""
    made = np.array([confidences], np.float32)
    unit = np.tile(np.array([0.0, 0.0, 10.0, 10.0], np.float32), (made.shape[2], 1))
    return [np.array([unit if boxes is None else boxes], np.float32), made]


def test_the_same_outputs_lose_nothing():
    same = detector([[0.9, 0.001, 0.3]])
    assert distortion(same, same).tolist() == [0.0]


def test_a_confidence_counts_by_its_divergence():
    p, q = 0.8, 0.4
    wanted = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert distortion(detector([[p]]), detector([[q]])) == pytest.approx([wanted / p], rel=1e-5)


def test_a_box_counts_by_the_overlap_it_lacks_times_its_confidence():
    moved = [[0, 0, 10, 10], [2, 0, 12, 10]]  # the second overlaps by 8 / 12
    found = distortion(detector([[0.5, 0.25]]), detector([[0.5, 0.25]], moved))
    assert found == pytest.approx([0.25 * 2 * (4 / 12) / 0.75], rel=1e-5), (
        "twice, as precision over 0.50 to 0.95 falls"
    )


def test_a_box_that_overlaps_by_less_than_a_half_is_lost_as_a_whole():
    moved = [[0, 0, 10, 10], [5, 0, 15, 10]]  # the second overlaps by a third
    found = distortion(detector([[0.5, 0.25]]), detector([[0.5, 0.25]], moved))
    assert found == pytest.approx([0.25 / 0.75], rel=1e-5)


def test_the_background_may_do_what_it_wants():
    background = detector([[0.9, SURE / 10]], [[0, 0, 10, 10], [500, 500, 900, 900]])
    assert distortion(detector([[0.9, SURE / 5]]), background) == pytest.approx([0.0], abs=1e-3)


@given(
    st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
)
def test_it_is_never_negative_and_agrees_with_a_plain_sum_over_all_anchors(
    one: list[float], other: list[float]
) -> None:
    wanted, got = np.reshape(one, (2, 2)), np.reshape(other, (2, 2))
    p, q = np.clip(wanted, SURE, 1 - SURE), np.clip(got, SURE, 1 - SURE)
    plain = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum() / max(
        wanted.max(axis=0).sum(), SURE
    )
    found = distortion(detector(wanted), detector(got))
    assert found[0] >= 0
    assert found == pytest.approx([plain], rel=1e-4, abs=1e-6)


def test_a_box_that_overflowed_overlaps_nothing():
    assert distortion(
        detector([[0.5]]), detector([[0.5]], [[-np.inf, -np.inf, np.inf, np.inf]])
    ) == pytest.approx([1.0])


def test_confidences_that_are_no_numbers_are_refused():
    with pytest.raises(ModelError, match="Expected finite confidences, got infinite values or NaN"):
        distortion(detector([[0.5]]), detector([[np.nan]]))


def test_outputs_are_decoded_as_the_task_says():
    task: Any = SimpleNamespace(
        score=SimpleNamespace(decode=lambda outputs: (outputs["boxes"], outputs["scores"]))
    )
    signal = boxes_signal(task)
    assert signal.name == "boxes"
    assert signal.view is not None
    boxes, confidences = signal.view({"scores": np.ones((1, 2, 3)), "boxes": np.zeros((1, 3, 4))})
    assert (boxes.shape, confidences.shape) == ((1, 3, 4), (1, 2, 3))


def test_a_task_that_is_no_detector_is_reported():
    task: Any = SimpleNamespace(score=lambda outputs, targets: outputs)
    with pytest.raises(
        TaskError, match="for --signal boxes, got one whose score has no decode; use --signal sqnr"
    ):
        boxes_signal(task)


class Shift:
    """A part whose loss is how far its only number moved, at each candidate."""

    name = "shift"

    def reported(self, outputs: Any) -> list[np.ndarray]:
        return [outputs[2]]

    def lost(self, boxes: Any, anchors: Any, own: Any, other: Any) -> np.ndarray:
        assert boxes.shape == (*anchors.shape, 4)
        return np.take_along_axis(np.abs(own[0] - other[0]), anchors, axis=1)


def test_masks_and_key_points_count_beside_boxes_by_what_they_lack_times_the_confidence():
    task = SimpleNamespace(score=SimpleNamespace(decode=lambda out: out[:2], part=Shift()))
    signal = boxes_signal(task)
    boxes = detector([[0.5, 0.25]])
    own, other = (signal.view([*boxes, np.array([row])]) for row in ([0.0, 0.0], [0.1, 0.9]))
    assert signal.of(own, own).tolist() == [0.0]
    assert signal.of(own, other) == pytest.approx([(0.5 * 2 * 0.1 + 0.25 * 1) / 0.75])


TWO = ([[0.9, 0.0], [0.0, 0.5]], [[0, 0, 10, 10], [20, 0, 30, 10]])
"""Two boxes that a model has selected, each of a class of its own."""


def test_boxes_that_a_model_selects_may_come_in_any_order_and_number():
    two = detector(*TWO)
    turned = [two[0][:, ::-1], two[1][..., ::-1]]
    assert distortion(*matched(two, turned)).tolist() == [0.0]
    third = detector([[0.9, 0, 0], [0, 0.5, 0.4]], [*TWO[1], [60, 0, 70, 10]])
    both = matched(two, third)
    assert [array.shape for pair in both for array in pair] == [(1, 5, 4), (1, 2, 5)] * 2
    aligned = detector([[0.9, 0, 0], [0, 0.5, 0]], [*TWO[1], [60, 0, 70, 10]])
    assert distortion(*both) == pytest.approx(distortion(aligned, third))
    assert distortion(*matched(third, two)) == pytest.approx(distortion(third, aligned))


def test_a_box_of_another_class_is_no_counterpart():
    one = detector([[0.9], [0.0]], [[0, 0, 10, 10]])
    other = detector([[0.0], [0.9]], [[0, 0, 10, 10]])
    lost_and_found = detector([[0.9, 0], [0, 0.9]], [[0, 0, 10, 10]] * 2)
    blank = detector([[0, 0], [0, 0.9]], [[0, 0, 10, 10]] * 2)
    wanted = detector([[0.9, 0], [0, 0]], [[0, 0, 10, 10]] * 2)
    assert distortion(*matched(one, other)) == pytest.approx(distortion(wanted, blank))
    assert distortion(*matched(one, lost_and_found)) > 0


def test_an_image_without_boxes_loses_nothing():
    none = [np.zeros((1, 0, 4), np.float32), np.zeros((1, 2, 0), np.float32)]
    assert distortion(*matched(none, none)).tolist() == [0.0]


def test_a_decode_that_selects_matches_its_boxes():
    def decode(outputs: Any) -> Any:
        return outputs

    decode.selects = True
    signal = boxes_signal(SimpleNamespace(score=SimpleNamespace(decode=decode)))
    two = detector(*TWO)
    assert signal.of(two, [two[0][:, ::-1], two[1][..., ::-1]]).tolist() == [0.0]
