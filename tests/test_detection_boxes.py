import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.detection_reference import greedy_nms

from sensitivity.tasks import detection_boxes
from sensitivity.tasks.detection_boxes import (
    Suppression,
    decode_ultralytics,
    decode_yolox,
    detections,
    nms,
)


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
