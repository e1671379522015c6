import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.detection_reference import pycocotools_ap

from sensitivity.tasks.detection_boxes import Detections
from sensitivity.tasks.detection_map import (
    Truth,
    average_precision,
    image_scores,
    match,
    mean_average_precision,
    mean_average_precision_50,
)

CLASSES = 3


@st.composite
def judged(draw):
    """Detections and truth on a coarse grid: tied confidences and overlaps, crowds, empty images,
    absent classes."""
    n, limit, most = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 4))
    confidences = draw(hnp.arrays(np.int64, (n, limit), elements=st.integers(0, 5))) / np.float32(5)
    found = Detections(
        draw(grid_boxes(n, limit)),
        -np.sort(-confidences.astype(np.float32), axis=1),
        draw(hnp.arrays(np.int64, (n, limit), elements=st.integers(0, CLASSES - 1))),
    )
    truth = Truth(
        draw(grid_boxes(n, most)),
        draw(hnp.arrays(np.int64, (n, most), elements=st.integers(-1, CLASSES - 1))),
        draw(hnp.arrays(bool, (n, most))),
    )
    return found, truth


def grid_boxes(n, count):
    whole = hnp.arrays(np.int64, (n, count, 4), elements=st.integers(0, 5))
    return whole.map(
        lambda b: np.concatenate([b[..., :2], b[..., :2] + b[..., 2:] + 1], axis=2).astype(
            np.float64
        )
    )


def random_case(seed, n=30, limit=40, most=9, classes=CLASSES):
    """Detections scattered around the truth, and others anywhere."""
    random = np.random.default_rng(seed)
    corner = random.random((n, most, 2)) * 60
    truth = Truth(
        np.concatenate([corner, corner + 1 + random.random((n, most, 2)) * 40], axis=2),
        random.integers(-1, classes, (n, most)),
        random.random((n, most)) < 0.2,
    )
    source = random.integers(0, most, (n, limit))
    near = np.take_along_axis(truth.boxes, source[..., None], axis=1) + random.normal(
        0, 2, (n, limit, 4)
    )
    near[..., 2:] = np.maximum(near[..., 2:], near[..., :2] + 1)
    labels = np.maximum(np.take_along_axis(truth.classes, source, axis=1), 0)
    confidences = -np.sort(-random.random((n, limit), np.float32), axis=1)
    count = random.integers(0, limit + 1, (n, 1))
    return Detections(
        near, np.where(np.arange(limit) < count, confidences, np.float32(0)), labels
    ), truth


@settings(deadline=None, max_examples=100)
@given(judged())
def test_average_precision_equals_pycocotools_on_small_cases(case):
    found, truth = case
    ours = average_precision(image_scores(found, truth, CLASSES), CLASSES)
    np.testing.assert_allclose(ours, pycocotools_ap(found, truth, CLASSES), atol=1e-9)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32))
@example(25)
def test_average_precision_equals_pycocotools_on_crowded_images(seed):
    found, truth = random_case(seed)
    scores = image_scores(found, truth, CLASSES)
    reference = pycocotools_ap(found, truth, CLASSES)
    np.testing.assert_allclose(average_precision(scores, CLASSES), reference, atol=1e-9)
    assert mean_average_precision(scores, CLASSES) == pytest.approx(np.nanmean(reference), abs=1e-9)
    assert mean_average_precision_50(scores, CLASSES) == pytest.approx(
        np.nanmean(reference[0]), abs=1e-9
    )


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 29), min_size=1, max_size=40))
def test_any_resample_of_rows_gives_the_metric_of_those_images(seed, rows):
    found, truth = random_case(seed)
    scores = image_scores(found, truth, CLASSES)[rows]
    again = (
        Detections(found.boxes[rows], found.confidences[rows], found.classes[rows]),
        Truth(truth.boxes[rows], truth.classes[rows], truth.crowd[rows]),
    )
    np.testing.assert_allclose(
        average_precision(scores, CLASSES), pycocotools_ap(*again, CLASSES), atol=1e-9
    )


@given(judged())
def test_scores_are_exact_in_float32_and_do_not_depend_on_the_other_images_of_the_batch(case):
    found, truth = case
    scores = image_scores(found, truth, CLASSES)
    assert np.array_equal(scores, scores.astype(np.float32))
    for row in range(len(scores)):
        alone = (
            Detections(found.boxes[[row]], found.confidences[[row]], found.classes[[row]]),
            Truth(truth.boxes[[row]], truth.classes[[row]], truth.crowd[[row]]),
        )
        assert np.array_equal(image_scores(*alone, CLASSES)[0], scores[row])


def one_image(found, truth):
    """found: [(box, confidence, class)], truth: [(box, class, crowd)]."""
    boxes, confidences, labels = zip(*found, strict=True)
    true_boxes, true_labels, crowd = zip(*truth, strict=True)
    return (
        Detections(
            np.array([boxes], float), np.array([confidences], np.float32), np.array([labels])
        ),
        Truth(np.array([true_boxes], float), np.array([true_labels]), np.array([crowd])),
    )


def test_a_perfect_detection_scores_one_and_a_missed_class_halves_it():
    box = (0, 0, 10, 10)
    found, truth = one_image([(box, 0.9, 0)], [(box, 0, False)])
    assert mean_average_precision(image_scores(found, truth, 2), 2) == 1.0
    found, truth = one_image([(box, 0.9, 0)], [(box, 0, False), (box, 1, False)])
    assert mean_average_precision(image_scores(found, truth, 2), 2) == 0.5


def test_a_box_that_overlaps_by_six_tenths_counts_at_the_three_lowest_thresholds():
    found, truth = one_image([((0, 0, 10, 6), 0.9, 0)], [((0, 0, 10, 10), 0, False)])
    scores = image_scores(found, truth, 1)
    assert average_precision(scores, 1)[:, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert mean_average_precision(scores, 1) == pytest.approx(0.3)


def test_a_box_lost_at_one_threshold_stays_free_for_the_next_detection_at_the_others():
    # The first detection wins box 1 at 0.85 and below; box 0 it would win only below 0.55 and must
    # leave to the second.
    found, truth = one_image(
        [((0, 0, 10, 8.8), 0.9, 0), ((0, 0, 10, 10), 0.8, 0)],
        [((0, 0, 10, 17), 0, False), ((0, 0, 10, 10), 0, False)],
    )
    hits, _ = match(found, truth)
    assert hits[0].tolist() == [0b0011111111, 0b1100000011]


def test_of_two_boxes_overlapped_alike_the_last_is_taken_as_in_pycocotools():
    # The first detection lies midway between the boxes; the second fits the last one, which is
    # gone.
    found, truth = one_image(
        [((1, 0, 11, 10), 0.9, 0), ((2, 0, 12, 10), 0.8, 0)],
        [((0, 0, 10, 10), 0, False), ((2, 0, 12, 10), 0, False)],
    )
    assert match(found, truth)[0][0].tolist() == [0b0001111111, 0b1110001111]
    np.testing.assert_allclose(
        average_precision(image_scores(found, truth, 1), 1), pycocotools_ap(found, truth, 1)
    )


def test_a_crowd_takes_any_number_of_detections_out_of_the_count():
    inside = [((1, 1, 3, 3), 0.9, 0), ((4, 4, 6, 6), 0.8, 0), ((20, 20, 30, 30), 0.7, 0)]
    found, truth = one_image(inside, [((0, 0, 10, 10), 0, True), ((20, 20, 30, 30), 0, False)])
    hits, ignored = match(found, truth)
    assert ignored[0].tolist() == [1023, 1023, 0]
    assert hits[0].tolist() == [0, 0, 1023]
    assert mean_average_precision(image_scores(found, truth, 1), 1) == 1.0


def test_images_without_ground_truth_have_a_metric_of_zero_and_classes_without_it_have_none():
    found, truth = one_image([((0, 0, 9, 9), 0.9, 0)], [((0, 0, 9, 9), -1, False)])
    scores = image_scores(found, truth, 2)
    assert mean_average_precision(scores, 2) == 0.0
    assert np.isnan(average_precision(scores, 2)).all()


def test_a_false_detection_in_an_image_without_objects_lowers_the_metric_of_the_others():
    box = (0, 0, 9, 9)
    right = image_scores(*one_image([(box, 0.5, 0)], [(box, 0, False)]), 1)
    wrong = image_scores(*one_image([(box, 0.9, 0)], [(box, -1, False)]), 1)
    assert mean_average_precision(np.concatenate([right, wrong]), 1) == 0.5
