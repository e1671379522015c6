"""Key points of a pose YOLO, judged as pycocotools judges, and as alike as ultralytics finds
them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.detection_reference import pycocotools_ap

from sensitivity.errors import TaskError
from sensitivity.tasks.detection import DetectionScore, pad_truth
from sensitivity.tasks.detection_boxes import Suppression, decode_ultralytics
from sensitivity.tasks.detection_images import fit
from sensitivity.tasks.detection_keypoints import COCO_SIGMAS, KeyPoints, usual_sigmas
from sensitivity.tasks.detection_labels import LabelledImage, labelled_areas, unlabelled
from sensitivity.tasks.detection_map import average_precision
from sensitivity.workflows.yolo_weights import ultralytics

CLASSES, SIDE = 2, 64
NAMES = ("person", "dog")
WHOLE = fit(SIDE, SIDE, SIDE)


def part_of(points: int, numbers: int) -> KeyPoints:
    return KeyPoints(CLASSES, points, numbers, usual_sigmas(points, numbers))


def judged(outputs, images, part, geometry=WHOLE):
    judge = DetectionScore(
        NAMES, lambda out: decode_ultralytics(out, CLASSES), Suppression(limit=60), part=part
    )
    most = max(1, *(len(image.classes) for image in images))
    truth = pad_truth(images, most)
    targets = {"boxes": truth.boxes, "classes": truth.classes, "crowd": truth.crowd}
    targets |= {"geometry": np.stack([geometry] * len(images))} | part.truth(images, most)
    return judge(outputs, targets), judge, truth, targets


def outputs_of(rows, points) -> np.ndarray:
    """rows: for each image (x, y, width, height, confidence of a, of b). points: [n, m, k, 2|3]."""
    flat = np.array(points).reshape(*np.array(points).shape[:2], -1)
    return np.moveaxis(np.concatenate([rows, flat], axis=2), 1, 2).astype(np.float32)


def object_of(box, label, points, crowd=False, area=None):
    return box, label, crowd, points, area or (box[2] - box[0]) * (box[3] - box[1]) * 0.5


def image_of(objects) -> LabelledImage:
    if not objects:
        return unlabelled(Path("a.png"))
    boxes, labels, crowd, points, area = zip(*objects, strict=True)
    return LabelledImage(
        Path("a.png"), np.array(boxes, float).reshape(-1, 4), np.array(labels, np.int64),
        np.array(crowd, bool), (SIDE, SIDE), None, np.array(points, float), np.array(area, float),
    )  # fmt: skip


def random_case(seed, points, numbers, n=8, anchors=50):
    rng = np.random.default_rng(seed)
    images, rows, given = [], [], []
    for _ in range(n):
        objects = []
        for _ in range(rng.integers(0, 5)):
            corner, extent = rng.random(2) * 35, 8 + rng.random(2) * 20
            places = corner + rng.random((points, 2)) * extent
            labelled = (rng.random((points, 1)) < 0.7) * 2 * (rng.random() < 0.8)
            box = [*corner, *(corner + extent)]
            objects.append(object_of(
                box, rng.integers(0, CLASSES), np.hstack([places, labelled]), rng.random() < 0.15
            ))  # fmt: skip
        images.append(image_of(objects))
        source = rng.integers(0, max(len(objects), 1), anchors)
        boxes = images[-1].boxes if objects else np.array([[5.0, 5, 30, 30]])
        own = images[-1].keypoints if objects else np.full((1, points, 3), 9.0)
        near = boxes[source] + rng.normal(0, 2, (anchors, 4))
        centre, size = (near[:, :2] + near[:, 2:]) / 2, np.abs(near[:, 2:] - near[:, :2]) + 1
        rows.append(np.hstack([centre, size, rng.random((anchors, CLASSES))]))
        moved = own[source, :, :2] + rng.normal(0, 0.7, (anchors, points, 2))
        given.append(np.concatenate([moved, rng.random((anchors, points, 1))], axis=2))
    return outputs_of(rows, np.array(given)[..., :numbers]), images


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("points", "numbers"), [(17, 3), (5, 2)])
def test_precision_equals_that_of_pycocotools(seed, points, numbers):
    outputs, images = random_case(seed, points, numbers)
    part = part_of(points, numbers)
    scores, judge, truth, targets = judged(outputs, images, part)
    found = judge.detections(outputs, targets)
    assert ((found.confidences > 0).sum(axis=1) > 40).any()  # more than count of a class
    given = part.reported(outputs)[0]
    shown = np.stack([given[at][found.anchors[at]] for at in range(len(images))])
    shown = shown.reshape(len(images), -1, points, numbers)[..., :2].clip(0, SIDE)
    keypoints = {
        "found": np.concatenate([shown, np.ones_like(shown[..., :1])], axis=-1).astype(float),
        "truth": targets["keypoints"], "areas": targets["areas"], "sigmas": part.sigmas,
    }  # fmt: skip
    expected = pycocotools_ap(found, truth, CLASSES, keypoints=keypoints)
    ours = average_precision(judge.part_rows(scores), CLASSES)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert 0.04 < np.nanmean(expected) < 0.95
    both = (np.nanmean(pycocotools_ap(found, truth, CLASSES)) + np.nanmean(expected)) / 2
    assert judge.aggregate(scores) == pytest.approx(both, abs=1e-6)


def test_similarities_are_those_of_ultralytics():
    ultralytics()
    from ultralytics.utils.metrics import OKS_SIGMA, kpt_iou

    np.testing.assert_allclose(COCO_SIGMAS, OKS_SIGMA)
    outputs, images = random_case(2, 17, 3)
    part = part_of(17, 3)
    _, judge, truth, targets = judged(outputs, images, part)
    found = judge.detections(outputs, targets)
    ours = part.overlaps(found, truth, outputs, targets)
    checked = 0
    for at, image in enumerate(images):
        if image.keypoints is None:
            continue
        shown = part.reported(outputs)[0][at][found.anchors[at]].reshape(-1, 17, 3)
        shown[..., :2] = shown[..., :2].clip(0, SIDE)
        areas = labelled_areas(image, 0.53)
        true, area = (torch.from_numpy(each) for each in (image.keypoints, areas))
        expected = kpt_iou(true.reshape(-1, 17, 3), torch.from_numpy(shown), area, OKS_SIGMA)
        counted = ~ours.ignored[at, : len(image.classes)]
        np.testing.assert_allclose(
            ours.values[at, :, : len(counted)][:, counted], expected.T[:, counted], atol=1e-5
        )
        checked += counted.sum()
    assert checked > 5


def test_a_point_that_is_off_by_its_spread_is_alike_by_the_root_of_e():
    box, k = [8.0, 8, 40, 40], 1 / 2
    true = [[10.0, 10, 2], [30, 30, 2]]
    off = 2 * k * np.sqrt(100.0)  # by sigma * 2 * the root of the area
    rows = [[[24, 24, 32, 32, 0.9, 0]]]
    outputs = outputs_of(rows, [[[[10 + off, 10], [30, 30 + off]]]])
    part = part_of(2, 2)
    scores, judge, truth, targets = judged(
        outputs, [image_of([object_of(box, 0, true, area=100.0)])], part
    )
    overlaps = part.overlaps(judge.detections(outputs, targets), truth, outputs, targets)
    assert overlaps.values[0, 0, 0] == pytest.approx(np.exp(-0.5))
    of_points = average_precision(judge.part_rows(scores), CLASSES)[:, 0]
    assert of_points.tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]  # 0.607


def test_points_of_letterboxed_images_are_compared_in_pixels_of_the_image():
    geometry = fit(128, 96, SIDE)  # two image pixels in one of the input, and a border of 8 above
    true = [[20.0, 16, 2], [60, 40, 2]]
    rows = [[[25, 23, 30, 22, 0.9, 0]]]
    outputs = outputs_of(rows, [[[[10, 16], [30, 28]]]])
    image = image_of([object_of([20.0, 8, 80, 52], 0, true)])
    scores, judge, *_ = judged(outputs, [image], part_of(2, 2), geometry)
    assert average_precision(judge.part_rows(scores), CLASSES)[:, 0].min() == 1


def test_points_of_a_variant_are_compared_with_those_of_float():
    outputs, _ = random_case(1, 17, 3)
    part = part_of(17, 3)
    own = part.reported(outputs)
    boxes, _ = decode_ultralytics(outputs, CLASSES)
    anchors = np.tile(np.arange(4), (len(boxes), 1))
    assert not part.lost(boxes[:, :4], anchors, own, own).any()
    assert part.lost(boxes[:, :4], anchors, own, [own[0] + 500]).min() > 0.99


def test_another_number_of_points_than_the_data_has_is_refused():
    with pytest.raises(TaskError, match="Expected 5 key points of 3 numbers with each box, got 51"):
        part_of(5, 3).reported(np.zeros((1, 4 + CLASSES + 51, 9)))
