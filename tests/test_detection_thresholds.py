"""The confidence threshold with the best F1, against ultralytics' own curve, and how far INT8 moves
it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.reporting_samples import complete

from sensitivity.records import Estimate
from sensitivity.reporting.formats import MINUS
from sensitivity.reporting.page import render
from sensitivity.tasks.detection_boxes import Detections
from sensitivity.tasks.detection_detail import DetectionDetail
from sensitivity.tasks.detection_map import Truth, image_scores
from sensitivity.tasks.detection_thresholds import ThresholdResult, threshold_result

CLASSES = 3


def scene(seed: int, n: int = 60, most: int = 6) -> tuple[Detections, Truth]:
    """Detections whose confidence is the probability that they are right, with about as many right
    as wrong."""
    random = np.random.default_rng(seed)
    corner = random.random((n, most, 2)) * 500
    boxes = np.concatenate([corner, corner + 40], axis=2)
    labels = random.integers(0, CLASSES, (n, most))
    right = random.random((n, most)) < 0.6
    confidences = np.where(right, random.beta(5, 2, (n, most)), random.beta(2, 5, (n, most)))
    order = np.argsort(-confidences, axis=1)
    found = Detections(
        np.take_along_axis(
            np.where(right[..., None], boxes, boxes + 600), order[..., None], axis=1
        ),
        np.take_along_axis(confidences, order, axis=1).astype(np.float32),
        np.take_along_axis(labels, order, axis=1),
    )
    return found, Truth(boxes, labels, np.zeros((n, most), bool))


def fainter(found: Detections, by: float) -> Detections:
    return Detections(found.boxes, (found.confidences * by).astype(np.float32), found.classes)


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_and_its_f1_are_those_of_ultralytics(seed: int) -> None:
    metrics = pytest.importorskip("ultralytics.utils.metrics")
    found, truth = scene(seed)
    result = threshold_result({"float": image_scores(found, truth, CLASSES)}, CLASSES)
    assert result is not None
    hits = found.boxes[..., 0] < 540  # wrong boxes lie outside the picture
    reference = metrics.ap_per_class(
        np.repeat(hits.reshape(-1, 1), 10, axis=1),
        found.confidences.ravel(),
        found.classes.ravel(),
        truth.classes.ravel(),
    )
    curve = reference[9].mean(axis=0)
    peak = int(metrics.smooth(curve, 0.1).argmax())
    # It draws straight lines between detections where ours counts them.
    assert result.threshold["float"].value == pytest.approx(peak / 999, abs=0.02)
    assert result.f1["float"] == pytest.approx(float(curve[peak]), abs=0.01)


def test_confidences_that_all_fall_move_the_threshold_and_not_the_f1() -> None:
    found, truth = scene(0)
    scores = {
        "float": image_scores(found, truth, CLASSES),
        "int8": image_scores(fainter(found, 0.5), truth, CLASSES),
        "partial": image_scores(found, truth, CLASSES),
    }
    result = threshold_result(scores, CLASSES)
    assert result is not None
    best = result.threshold["float"].value
    assert result.threshold["int8"].value == pytest.approx(best / 2, abs=0.05)
    assert result.f1["int8"] == pytest.approx(result.f1["float"], abs=0.01)
    assert result.f1_kept["int8"] < result.f1["float"] - 0.2
    shift = result.shift["int8"]
    assert shift.high is not None
    assert shift.high < 0
    assert result.shift["partial"] == Estimate(0.0, 0.0, 0.0, 60)  # the same on any images
    assert "float" not in result.shift


def test_the_f1_is_the_one_that_counting_gives() -> None:
    """Two boxes of one class: one is found with certainty, one is not found, and one false
    detection lies between them."""
    boxes = np.array([[[0.0, 0, 10, 10], [50, 0, 60, 10]]])
    truth = Truth(boxes, np.zeros((1, 2), np.int64), np.zeros((1, 2), bool))
    found = Detections(
        np.array([[[0.0, 0, 10, 10], [100, 0, 110, 10]]]),
        np.array([[0.9, 0.4]], np.float32),
        np.zeros((1, 2), np.int64),
    )
    result = threshold_result({"float": image_scores(found, truth, 1)}, 1)
    assert result is not None
    assert 0.4 < result.threshold["float"].value < 0.9
    assert result.f1["float"] == pytest.approx(2 * 1 / (1 + 2))
    assert result.threshold["float"].low is None  # one image has no interval


def test_what_lies_in_a_crowd_is_no_false_detection() -> None:
    boxes = np.array([[[0.0, 0, 10, 10], [50, 0, 90, 40]]])
    truth = Truth(boxes, np.zeros((1, 2), np.int64), np.array([[False, True]]))
    found = Detections(
        np.array([[[55.0, 5, 65, 15], [0, 0, 10, 10]]]),
        np.array([[0.9, 0.5]], np.float32),
        np.zeros((1, 2), np.int64),
    )
    result = threshold_result({"float": image_scores(found, truth, 1)}, 1)
    assert result is not None
    assert result.f1["float"] == pytest.approx(1.0)


def test_images_without_boxes_have_no_threshold() -> None:
    found, truth = scene(0, n=2)
    empty = Truth(truth.boxes, np.full_like(truth.classes, -1), truth.crowd)
    assert threshold_result({"float": image_scores(found, empty, CLASSES)}, CLASSES) is None


def test_the_report_says_where_the_threshold_goes() -> None:
    result = ThresholdResult(
        {
            "float": Estimate(0.42, 0.39, 0.47, 50),
            "int8": Estimate(0.21, 0.18, 0.26, 50),
            "partial": Estimate(0.41, 0.38, 0.46, 50),
        },
        {"float": 0.661, "int8": 0.652, "partial": 0.66},
        {"float": 0.661, "int8": 0.318, "partial": 0.659},
        {"int8": Estimate(-0.21, -0.25, -0.16, 50), "partial": Estimate(-0.01, -0.02, 0.01, 50)},
    )
    detail = DetectionDetail(50, (), {}, (), (), result)
    text = render(replace(complete(8), detection=detail))
    assert "Confidence threshold" in text
    assert f"[{MINUS}0.25, {MINUS}0.16]" in text
    assert "31.8" in text
    without = render(replace(complete(8), detection=replace(detail, thresholds=None)))
    assert "Confidence threshold" not in without
