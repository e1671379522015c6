import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.detection_reference import greedy_nms, pycocotools_ap

from sensitivity.tasks import detection_boxes
from sensitivity.tasks.detection_boxes import (
    Detections,
    Suppression,
    decode_bins,
    decode_objectness,
    decode_shares,
    decode_ultralytics,
    decode_yolox,
    detections,
    nms,
)
from sensitivity.tasks.detection_map import Truth, average_precision, image_scores
from sensitivity.tasks.detection_rotated import decode_rotated, suppress_rotated


@st.composite
def candidates(draw):
    """Small integer boxes and few confidences, so that ties and overlaps exactly at the threshold
    are common."""
    n = draw(st.integers(0, 40))
    corner = draw(hnp.arrays(np.int64, (n, 2), elements=st.integers(0, 6)))
    extent = draw(hnp.arrays(np.int64, (n, 2), elements=st.integers(0, 4)))
    confidences = draw(hnp.arrays(np.int64, n, elements=st.integers(1, 9))) / np.float32(10)
    classes = draw(hnp.arrays(np.int64, n, elements=st.integers(0, 2)))
    return (
        np.concatenate([corner, corner + extent], axis=1).astype(np.float32),
        confidences.astype(np.float32),
        classes,
    )


@pytest.mark.parametrize("chunk", [1, 7, 256], ids="chunk-{}".format)
@settings(deadline=None, max_examples=60)
@given(candidates(), st.sampled_from([0.3, 0.5, 0.7]), st.integers(1, 40))
def test_suppression_keeps_what_the_greedy_loop_keeps_in_the_same_order(chunk, drawn, iou, limit):
    boxes, confidences, classes = drawn
    before, detection_boxes.CHUNK = detection_boxes.CHUNK, chunk
    try:
        kept = nms(boxes, confidences, classes, iou=iou, limit=limit)
    finally:
        detection_boxes.CHUNK = before
    assert kept.tolist() == greedy_nms(boxes, confidences, classes, iou, limit)


def test_suppression_agrees_with_the_greedy_loop_on_a_thousand_crowded_boxes():
    random = np.random.default_rng(0)
    corner = random.random((1000, 2), np.float32) * 100
    boxes = np.concatenate([corner, corner + 5 + random.random((1000, 2), np.float32) * 30], axis=1)
    confidences, classes = random.random(1000, np.float32), random.integers(0, 3, 1000)
    for limit in (100, 1000):
        kept = nms(boxes, confidences, classes, iou=0.4, limit=limit)
        assert kept.tolist() == greedy_nms(boxes, confidences, classes, 0.4, limit)


def test_boxes_of_different_classes_do_not_suppress_each_other():
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9]], np.float32)
    assert nms(boxes, np.array([0.4, 0.9]), np.array([5, 6]), iou=0.5, limit=9).tolist() == [1, 0]


def test_an_anchor_is_reported_for_every_class_above_the_threshold_and_for_no_other():
    confidences = np.array([[[0.9], [0.002], [0.001]]], np.float32)
    found = detections(
        np.array([[[1.0, 2, 3, 4]]]), confidences, Suppression(confidence=0.001, limit=4)
    )
    assert found.classes[0].tolist() == [0, 1, 0, 0]
    assert found.confidences[0].tolist() == pytest.approx([0.9, 0.002, 0, 0])
    assert found.boxes[0, :2].tolist() == [[1, 2, 3, 4], [1, 2, 3, 4]]


def test_of_one_class_the_best_hundred_are_reported_and_of_all_classes_three_hundred():
    far_apart = np.arange(200)[:, None] * 10 + np.array([0, 0, 5, 5])
    confidences = np.random.default_rng(0).uniform(0.1, 0.9, (1, 4, 200)).astype(np.float32)
    confidences[0, 0] += 0.4
    confidences[0, 3, 50:] = 0
    found = detections(far_apart[None].astype(float), confidences, Suppression())
    kept = found.confidences[0] > 0
    best = sorted(
        ((-c, k) for k in range(4) for c in confidences[0, k] if c), key=lambda pair: pair[0]
    )[:300]
    expected = {k: sorted(c for c, label in best if label == k)[:100] for k in range(4)}
    assert len(expected[0]) == 100 < sum(label == 0 for _, label in best)
    for k in range(4):
        assert (-found.confidences[0, kept & (found.classes[0] == k)]).tolist() == pytest.approx(
            expected[k]
        )
    assert (np.diff(found.confidences[0]) <= 0).all()


def test_an_image_without_candidates_has_no_detections():
    found = detections(np.zeros((2, 5, 4)), np.zeros((2, 3, 5), np.float32), Suppression(limit=6))
    assert found.boxes.shape == (2, 6, 4)
    assert not found.confidences.any()


def test_confidences_that_are_not_numbers_are_no_detections():
    found = detections(
        np.zeros((1, 2, 4)), np.full((1, 3, 2), np.nan, np.float32), Suppression(limit=6)
    )
    assert not found.confidences.any()


def test_ultralytics_outputs_decode_from_centre_and_size_to_corners():
    raw = np.array([10, 20, 4, 6, 0.1, 0.7], np.float32).reshape(1, 6, 1)
    for outputs in (raw, (raw, {"feats": None})):
        boxes, confidences = decode_ultralytics(outputs)
        assert boxes.tolist() == [[[8, 17, 12, 23]]]
        assert confidences.shape == (1, 2, 1)


def test_yolox_outputs_decode_cell_by_cell():
    random = np.random.default_rng(1)
    outputs = random.normal(size=(2, 4 * 4 + 2 * 2 + 1, 5 + 3)).astype(np.float32)
    boxes, confidences = decode_yolox(outputs, size=32)
    anchor = 0
    for stride, side in ((8, 4), (16, 2), (32, 1)):
        for y in range(side):
            for x in range(side):
                dx, dy, log_w, log_h, objectness = outputs[1, anchor, :5]
                cx, cy, w, h = (
                    (x + dx) * stride,
                    (y + dy) * stride,
                    np.exp(log_w) * stride,
                    np.exp(log_h) * stride,
                )
                expected = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                np.testing.assert_allclose(boxes[1, anchor], expected, rtol=1e-4, atol=1e-4)
                np.testing.assert_allclose(
                    confidences[1, :, anchor], objectness * outputs[1, anchor, 5:], rtol=1e-6
                )
                anchor += 1
    assert anchor == outputs.shape[1]


HUGE = [np.inf, -np.inf, np.nan, 3e38, -3e38, 2e19]
"""Numbers of boxes whose areas are beyond float32, or that are none."""


@pytest.mark.parametrize("number", HUGE, ids=str)
def test_huge_boxes_find_nothing_suppress_nothing_and_leave_the_rest_as_it_was(number):
    # Two boxes of this number, surer than the right ones, lie in the way of everything.
    real = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [40, 40, 60, 60]], np.float32)
    huge = np.array([[-number, -number, number, number]] * 2, np.float32)
    boxes = np.concatenate([huge, real])[None]
    confidences = np.array([[[0.9, 0.8, 0.7, 0.6, 0.5]]], np.float32)
    truth = Truth(
        np.array([[[0.0, 0, 10, 10], [40, 40, 60, 60], [0, 0, 64, 64]]]),
        np.zeros((1, 3), np.int64),
        np.array([[False, False, True]]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = detections(boxes, confidences, Suppression(limit=6))
        ours = average_precision(image_scores(found, truth, 1), 1)
    # pycocotools is given boxes far from all objects in place of the huge ones.
    apart = [[1000.0, 1000, 1001, 1001], [2000, 2000, 2001, 2001]]
    kept = greedy_nms([*apart, *real.tolist()], confidences[0, 0].tolist(), [0] * 5, 0.7, 6)
    assert kept == [0, 1, 2, 4]
    same = Detections(
        np.array([[[*apart, *real.tolist()][one] for one in kept]]),
        confidences[:, 0, kept],
        np.zeros((1, len(kept)), np.int64),
    )
    assert found.confidences[0, :4].tolist() == same.confidences[0].tolist()
    np.testing.assert_allclose(ours, pycocotools_ap(same, truth, 1), atol=1e-9)
    assert ours[:, 0].tolist() == pytest.approx([0.5] * 10)


def test_huge_rotated_boxes_suppress_neither_each_other_nor_any_box():
    boxes = np.array([[5, 5, 4, 2, 0]] * 2 + [[5, 5, 1e30, 1e30, 0], [5, 5, 4, 2, np.inf]])
    confidences = np.array([[[0.5, 0.4, 0.9, 0.8]]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = detections(boxes[None], confidences, Suppression(limit=5), suppress_rotated)
    assert found.confidences[0].tolist() == np.float32([0.9, 0.8, 0.5, 0, 0]).tolist()
    assert found.boxes[0].tolist() == [[0] * 5, [0] * 5, [5, 5, 4, 2, 0], [0] * 5, [0] * 5]


@pytest.mark.parametrize("number", [*HUGE, 89.0], ids=str)
@pytest.mark.parametrize(
    ("decode", "shape"),
    [
        (lambda raw: decode_yolox(raw, size=32), (1, 21, 6)),
        (decode_objectness, (1, 21, 6)),
        (decode_ultralytics, (1, 5, 21)),
        (lambda raw: decode_shares(raw, 32, 1), (1, 21, 5)),
        (lambda raw: decode_rotated(raw, 1), (1, 6, 21)),
        (lambda raw: decode_bins((raw, np.zeros((1, 1, 21))), 32), (1, 8, 21)),
    ],
    ids=["yolox", "objectness", "ultralytics", "shares", "rotated", "bins"],
)
@pytest.mark.parametrize("place", range(4))
def test_huge_numbers_decode_without_a_warning_and_to_no_huge_box(decode, shape, place, number):
    raw = np.full(shape, 0.5, np.float32)
    has_anchors_last = shape[2] == 21
    raw[(0, place, 7) if has_anchors_last else (0, 7, place)] = number
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        boxes, confidences = decode(raw)
        suppress = suppress_rotated if boxes.shape[2] == 5 else nms
        found = detections(boxes, confidences, Suppression(limit=30), suppress)
    assert np.abs(found.boxes).max() < detection_boxes.FARTHEST
