"""Rotated boxes: overlap, suppression and precision as ultralytics computes them on the same
outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sensitivity.errors import TaskError
from sensitivity.tasks.detection import pad_truth
from sensitivity.tasks.detection_boxes import Detections
from sensitivity.tasks.detection_images import fit
from sensitivity.tasks.detection_labels import LabelledImage
from sensitivity.tasks.detection_map import Overlaps, Truth, overlap_scores
from sensitivity.tasks.detection_rotated import (
    Corners,
    RotatedScore,
    around,
    decode_rotated,
    rotated_mean,
    rotated_overlap,
    rotated_rule,
    suppress_rotated,
)
from sensitivity.workflows.yolo_weights import ultralytics

CLASSES, SIDE = 3, 64
NAMES = ("ship", "plane", "pool")
WHOLE = fit(SIDE, SIDE, SIDE)


def random_boxes(rng, count):
    centre, extent = rng.random((count, 2)) * 44 + 10, rng.random((count, 2)) * 18 + 2
    return np.hstack([centre, extent, rng.uniform(-np.pi / 4, 3 * np.pi / 4, (count, 1))])


def corners_of(boxes):
    """float[n, 4, 2], around each box."""
    x, y, width, height, angle = boxes.T
    along = np.stack([np.cos(angle), np.sin(angle)], axis=1) * width[:, None] / 2
    across = np.stack([-np.sin(angle), np.cos(angle)], axis=1) * height[:, None] / 2
    centre = np.stack([x, y], axis=1)
    return np.stack(
        [centre + along + across, centre + along - across, centre - along - across,
         centre - along + across], axis=1,
    )  # fmt: skip


def image_of(corners, classes, size=(SIDE, SIDE)) -> LabelledImage:
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    return LabelledImage(
        Path("a.png"), boxes, np.array(classes, np.int64), np.zeros(len(boxes), bool), size,
        corners=corners,
    )  # fmt: skip


def judged(outputs, images, geometry=WHOLE):
    judge = RotatedScore(NAMES, lambda out: decode_rotated(out, CLASSES), rotated_rule(images))
    most = max(1, *(len(image.classes) for image in images))
    truth = pad_truth(images, most)
    targets = {"classes": truth.classes, "crowd": truth.crowd} | Corners().truth(images, most)
    targets["geometry"] = np.stack([geometry] * len(images))
    return judge(outputs, targets), judge, targets


def outputs_of(boxes, confidences) -> np.ndarray:
    """boxes: [n, anchors, 5]. confidences: [n, anchors, classes]."""
    rows = np.concatenate([boxes[..., :4], confidences, boxes[..., 4:]], axis=2)
    return np.moveaxis(rows, 1, 2).astype(np.float32)


def random_case(seed, n=12, anchors=60):
    rng = np.random.default_rng(seed)
    images, given = [], []
    for _ in range(n):
        boxes = random_boxes(rng, rng.integers(0, 6))
        images.append(image_of(corners_of(boxes), rng.integers(0, CLASSES, len(boxes))))
        source = boxes if len(boxes) else random_boxes(rng, 1)
        near = source[rng.integers(0, len(source), anchors)]
        near = near + rng.normal(0, 1, near.shape) * [1, 1, 1, 1, 0.08]
        given.append(np.hstack([near[:, :2], np.abs(near[:, 2:4]) + 0.5, near[:, 4:]]))
    confidences = rng.random((n, anchors, CLASSES)) ** 4
    return outputs_of(np.array(given), confidences), images


def theirs(outputs, images):
    """AP float64[classes that occur, 10] by ultralytics: suppression, matching and precision."""
    ultralytics()
    from ultralytics.models.yolo.obb import OBBValidator
    from ultralytics.utils.metrics import ap_per_class
    from ultralytics.utils.nms import non_max_suppression
    from ultralytics.utils.ops import xyxyxyxy2xywhr

    validator = object.__new__(OBBValidator)
    validator.iouv, validator.niou = torch.linspace(0.5, 0.95, 10), 10
    found = non_max_suppression(
        torch.from_numpy(outputs), 0.01, 0.7, nc=CLASSES, multi_label=True, rotated=True
    )
    columns = []
    for rows, image in zip(found, images, strict=True):
        preds = {"cls": rows[:, 5], "bboxes": torch.cat([rows[:, :4], rows[:, 6:]], dim=1)}
        corners = torch.from_numpy(image.corners.astype(np.float32))
        batch = {
            "cls": torch.from_numpy(image.classes),
            "bboxes": xyxyxyxy2xywhr(corners) if len(corners) else torch.zeros((0, 5)),
        }
        hits = validator._process_batch(preds, batch)["tp"]
        columns.append((hits, rows[:, 4].numpy(), rows[:, 5].numpy()))
    labels = np.concatenate([image.classes for image in images])
    return ap_per_class(*map(np.concatenate, zip(*columns, strict=True)), labels)[5]


@pytest.mark.parametrize("seed", range(5))
def test_precision_is_within_a_tenth_of_a_point_of_that_of_ultralytics(seed):
    outputs, images = random_case(seed)
    scores, judge, _ = judged(outputs, images)
    expected = theirs(outputs, images)
    assert 0.1 < expected.mean() < 0.95
    ours = judge.precision(scores)
    np.testing.assert_allclose(ours[:, ~np.isnan(ours[0])], expected.T, atol=1e-6)
    assert judge.aggregate(scores) == pytest.approx(expected.mean(), abs=1e-6)
    assert judge.figures["rotated mAP50"](scores) == pytest.approx(expected[:, 0].mean(), abs=1e-3)


def test_overlaps_are_those_of_ultralytics():
    ultralytics()
    from ultralytics.utils.metrics import batch_probiou

    rng = np.random.default_rng(0)
    first, second = random_boxes(rng, 40), random_boxes(rng, 50)
    second[:40] = first + rng.normal(0, 0.5, first.shape)
    second[:, 2:4] = np.abs(second[:, 2:4]) + 0.1
    ours = rotated_overlap(first[:, None], second[None])
    assert ours.max() > 0.8
    np.testing.assert_allclose(ours, batch_probiou(first, second), atol=1e-9)


def test_suppression_is_that_of_ultralytics_also_across_chunks(monkeypatch):
    ultralytics()
    from ultralytics.utils.metrics import batch_probiou
    from ultralytics.utils.nms import TorchNMS

    rng = np.random.default_rng(1)
    boxes = random_boxes(rng, 20)[rng.integers(0, 20, 300)]
    boxes = boxes + rng.normal(0, 0.5, boxes.shape) * [1, 1, 1, 1, 0.1]
    boxes[:, 2:4] = np.abs(boxes[:, 2:4]) + 0.5
    confidences, classes = rng.permutation(300) / 300, rng.integers(0, 3, 300)
    apart = np.hstack([boxes[:, :2] + classes[:, None] * 7680, boxes[:, 2:]])
    expected = TorchNMS.fast_nms(
        torch.from_numpy(apart), torch.from_numpy(confidences), 0.7, iou_func=batch_probiou
    ).numpy()
    assert 20 < len(expected) < 200
    for chunk in (17, 256):
        monkeypatch.setattr("sensitivity.tasks.detection_rotated.CHUNK", chunk)
        kept = suppress_rotated(boxes, confidences, classes, iou=0.7, limit=300)
        assert kept.tolist() == expected.tolist()
        few = suppress_rotated(boxes, confidences, classes, iou=0.7, limit=9)
        assert few.tolist() == expected.tolist()[:9]


def test_the_rectangle_around_four_corners_is_the_box_that_they_are_of():
    boxes = random_boxes(np.random.default_rng(2), 50)
    rng = np.random.default_rng(3)
    corners = np.stack([rng.permutation(each) for each in corners_of(boxes)])
    assert rotated_overlap(boxes, around(corners)).min() > 0.999


def test_the_rectangle_around_a_crooked_label_is_that_of_opencv():
    ultralytics()
    from ultralytics.utils.ops import xyxyxyxy2xywhr

    points = np.random.default_rng(4).random((60, 4, 2)) * 50
    ours, expected = around(points), xyxyxyxy2xywhr(points)
    np.testing.assert_allclose(ours[:, 2] * ours[:, 3], expected[:, 2] * expected[:, 3], rtol=1e-4)
    assert np.median(rotated_overlap(ours, expected)) > 0.999


def test_a_turned_box_overlaps_less_the_longer_it_is():
    box, turned = np.array([32.0, 32, 40, 4, 0]), np.array([32.0, 32, 40, 4, np.pi / 6])
    square, diamond = np.array([32.0, 32, 20, 20, 0]), np.array([32.0, 32, 20, 20, np.pi / 6])
    assert rotated_overlap(box, turned) < 0.4
    assert rotated_overlap(square, diamond) == pytest.approx(1, abs=1e-3)  # to a Gaussian the same


def test_a_perfect_detection_has_the_precision_of_ultralytics_which_is_half_a_point_under_one():
    found = Detections(np.zeros((1, 1, 5)), np.array([[0.9]], np.float32), np.zeros((1, 1), int))
    truth = Truth(np.zeros((1, 1, 5)), np.zeros((1, 1), int), np.zeros((1, 1), bool))
    scores = overlap_scores(found, truth, Overlaps(np.ones((1, 1, 1)), truth.crowd), 1)
    assert rotated_mean(scores, 1) == pytest.approx(0.995)
    assert rotated_mean(scores * [0, 0, 1], 1) == 0.0  # nothing is found
    assert rotated_mean(scores * 0, 1) == 0.0  # nothing is there


def test_truth_of_letterboxed_images_is_placed_in_the_input():
    geometry = fit(128, 96, SIDE)  # two image pixels in one of the input, and a border of 8 above
    boxes = random_boxes(np.random.default_rng(5), 3) * [0.5, 0.3, 0.5, 0.5, 1] + [8, 16, 0, 0, 0]
    corners = (corners_of(boxes) - [0, 8]) * 2
    confidences = np.eye(CLASSES)[None] * 0.9
    scores, judge, _ = judged(
        outputs_of(boxes[None], confidences), [image_of(corners, [0, 1, 2], (128, 96))], geometry
    )
    assert judge.aggregate(scores) == pytest.approx(0.995)


def test_boxes_that_the_model_chose_are_read_with_their_angle():
    rows = np.array([[[5, 6, 7, 8, 0.9, 2, 0.3], [1, 2, 3, 4, 0.8, 0, 0.1]]], np.float32)
    boxes, confidences = decode_rotated(rows, CLASSES, chosen=True)
    np.testing.assert_allclose(boxes[0], [[5, 6, 7, 8, 0.3], [1, 2, 3, 4, 0.1]], rtol=1e-6)
    np.testing.assert_allclose(confidences[0], [[0, 0.8], [0, 0], [0.9, 0]])


def test_outputs_without_one_angle_are_refused():
    with pytest.raises(TaskError, match="Expected one angle with each box .*, got 2 numbers"):
        decode_rotated(np.zeros((1, 4 + CLASSES + 2, 9)), CLASSES)
