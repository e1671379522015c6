"""Masks of a segmentation YOLO: drawn as ultralytics draws them, judged as pycocotools judges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_tools
from support.detection_reference import pycocotools_ap

from sensitivity.errors import TaskError
from sensitivity.tasks.detection import DetectionScore, pad_truth
from sensitivity.tasks.detection_boxes import Suppression, decode_ultralytics
from sensitivity.tasks.detection_images import fit
from sensitivity.tasks.detection_labels import LabelledImage
from sensitivity.tasks.detection_map import average_precision
from sensitivity.tasks.detection_masks import Drawing, Masks, true_masks
from sensitivity.tasks.detection_sizes import SIZES
from sensitivity.workflows.yolo_weights import ultralytics

CLASSES, SIDE, CELLS, KINDS = 2, 64, 16, 5
NAMES = ("a", "b")


def labelled(outlines, classes, size=(SIDE, SIDE), crowd=None) -> LabelledImage:
    """An image with objects of these outlines, polygons or run lengths, and the boxes around."""
    image = LabelledImage(
        Path("a.png"), np.zeros((len(classes), 4)), np.array(classes, np.int64),
        np.array(crowd or [False] * len(classes)), size, tuple(outlines),
    )  # fmt: skip
    boxes = mask_tools.toBbox(true_masks(image)).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return LabelledImage(image.file, boxes, image.classes, image.crowd, image.size, image.outlines)


def square(x1, y1, x2, y2):
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def judged(outputs, images) -> tuple[np.ndarray, DetectionScore]:
    """Rows of images that fill the input, and their judge."""
    masks = Masks(CLASSES, SIDE)
    judge = DetectionScore(
        NAMES, lambda out: decode_ultralytics(out, CLASSES), Suppression(limit=20), part=masks
    )
    most = max(1, *(len(image.classes) for image in images))
    truth = pad_truth(images, most)
    targets = {"boxes": truth.boxes, "classes": truth.classes, "crowd": truth.crowd}
    targets |= {"geometry": np.stack([fit(*image.size, SIDE) for image in images])}
    return judge(outputs, targets | masks.truth(images, most)), judge


def outputs_of(rows, weights, protos) -> tuple[np.ndarray, np.ndarray]:
    """rows: for each image (x, y, width, height, confidence of a, of b)."""
    detections = np.concatenate([np.array(rows), np.array(weights)], axis=2)
    return np.moveaxis(detections, 1, 2).astype(np.float32), np.asarray(protos, np.float32)


def random_case(seed, n=6, anchors=25):
    """Detections around the objects with blobs for masks; crowds and run lengths among them."""
    rng = np.random.default_rng(seed)
    protos = rng.normal(size=(n, KINDS, CELLS, CELLS))
    for _ in range(2):  # smooth, so that masks hang together
        protos = (protos + np.roll(protos, 1, 2) + np.roll(protos, 1, 3)) / 2
    protos[:, 0] = 1
    images, rows, weights = [], [], []
    for _ in range(n):
        count = rng.integers(0, 5)
        corner, extent = rng.random((count, 2)) * 40, 8 + rng.random((count, 2)) * 16
        outlines = [square(*one, *(one + more)) for one, more in zip(corner, extent, strict=True)]
        crowd = (rng.random(count) < 0.2).tolist()
        for at in range(0, count, 2):  # as COCO gives crowds, not compressed
            runs = mask_tools.decode(mask_tools.merge(
                mask_tools.frPyObjects(outlines[at], SIDE, SIDE)
            )).ravel("F")  # fmt: skip
            edges = np.flatnonzero(np.diff(np.concatenate([[0], runs, [2]])))
            outlines[at] = {
                "size": [SIDE, SIDE], "counts": np.diff(np.concatenate([[0], edges])).tolist()
            }  # fmt: skip
        images.append(labelled(outlines, rng.integers(0, CLASSES, count), crowd=crowd))
        near = images[-1].boxes[rng.integers(0, count, anchors)] if count else np.full(
            (anchors, 4), [9.0, 9, 30, 30]
        )  # fmt: skip
        near = near + rng.normal(0, 1.5, near.shape)
        centre, size = (near[:, :2] + near[:, 2:]) / 2, np.abs(near[:, 2:] - near[:, :2]) + 1
        rows.append(np.concatenate([centre, size, rng.random((anchors, CLASSES))], axis=1))
        own = rng.normal(0, 0.2, (anchors, KINDS))
        own[:, 0] = 0.5
        weights.append(own)
    return outputs_of(rows, weights, protos), images


def ultralytics_masks(outputs, found, image):
    """uint8[m, side, side] of an image that fills the input, as ultralytics draws them."""
    ultralytics()
    from ultralytics.utils import ops

    detections, protos = (torch.from_numpy(each[image]) for each in outputs)
    some = found.confidences[image] > 0
    weights = detections[4 + CLASSES :, torch.from_numpy(found.anchors[image][some])].T
    boxes = torch.from_numpy(found.boxes[image][some])
    return ops.process_mask(protos, weights, boxes, (SIDE, SIDE), upsample=True).numpy()


@pytest.mark.parametrize("seed", range(8))
def test_masks_drawn_by_ultralytics_and_judged_by_pycocotools_give_the_same_precision(seed):
    outputs, images = random_case(seed)
    scores, judge = judged(outputs, images)
    truth = pad_truth(images, max(1, *(len(image.classes) for image in images)))
    geometry = np.stack([fit(SIDE, SIDE, SIDE)] * len(images))
    found = judge.detections(outputs, {"geometry": geometry})
    drawn = [ultralytics_masks(outputs, found, at) for at in range(len(images))]
    masks = {
        "found": [[mask_tools.encode(np.asfortranarray(one)) for one in each] for each in drawn],
        "truth": [true_masks(image) for image in images],
    }
    expected = pycocotools_ap(found, truth, CLASSES, masks=masks)
    ours = average_precision(judge.part_rows(scores), CLASSES)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    of_boxes = pycocotools_ap(found, truth, CLASSES)
    np.testing.assert_allclose(average_precision(judge.box_rows(scores), CLASSES), of_boxes)
    for size, rows in judge.size_rows(scores).items():
        of_size = pycocotools_ap(found, truth, CLASSES, size=SIZES[size])
        np.testing.assert_allclose(average_precision(rows, CLASSES), of_size)
    both = (np.nanmean(of_boxes) + np.nanmean(expected)) / 2
    assert judge.aggregate(scores) == pytest.approx(both, abs=1e-6)
    assert np.nanmean(expected) not in (0, np.nanmean(of_boxes))


def test_a_mask_that_covers_six_tenths_of_an_object_counts_at_the_three_lowest_overlaps():
    image = labelled([square(8, 8, 28, 28)], [0])
    protos = np.full((1, KINDS, CELLS, CELLS), -1.0)
    protos[0, 0] = np.where(np.arange(CELLS)[:, None] < 5, 1, -1)  # the upper 20 rows, and no more
    rows = [[[18, 18, 20, 20, 0.9, 0.0]]]
    scores, judge = judged(outputs_of(rows, [[[1, 0, 0, 0, 0]]], protos), [image])
    of_masks = average_precision(judge.part_rows(scores), CLASSES)[:, 0]
    assert of_masks.tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert average_precision(judge.box_rows(scores), CLASSES)[:, 0].min() == 1
    assert judge.aggregate(scores) == pytest.approx((1 + 0.3) / 2)
    named = {name: figure(scores) for name, figure in judge.figures.items()}
    assert named == pytest.approx(
        {"box mAP50-95": 1, "mask mAP50-95": 0.3, "box mAP50": 1, "mask mAP50": 1}
    )


@pytest.mark.parametrize(("width", "height"), [(128, 96), (96, 128), (256, 192), (48, 64)])
def test_masks_of_letterboxed_images_are_drawn_as_ultralytics_draws_them(width, height):
    ultralytics()
    from ultralytics.utils import ops

    rng = np.random.default_rng(0)
    protos = rng.normal(size=(KINDS, CELLS, CELLS)).astype(np.float32)
    weights = rng.normal(size=(7, KINDS)).astype(np.float32)
    boxes = np.sort(rng.random((7, 2, 2)), axis=1).reshape(7, 4) * np.tile([width, height], 2)
    drawn = Drawing(protos, fit(width, height, SIDE), SIDE).masks(weights, boxes)
    expected = ops.process_mask_native(
        *map(torch.from_numpy, (protos, weights, boxes)), (height, width)
    ).numpy()
    ours = np.moveaxis(mask_tools.decode(drawn), 2, 0)
    assert expected.any()
    assert np.mean(ours != expected) < 1e-4  # a sum of last bits may turn


def test_the_smallest_change_of_a_mask_is_seen_in_the_record_and_does_not_count():
    outputs, images = random_case(3)
    scores, judge = judged(outputs, images)
    protos = outputs[1].copy()
    protos[:, 0] += 0.3
    other, _ = judged((outputs[0], protos), images)
    overlap_sums, others = (judge.without_sizes(rows)[:, -1] for rows in (scores, other))
    assert not np.array_equal(overlap_sums, others)
    assert np.array_equal(judge.box_rows(scores), judge.box_rows(other))


def test_masks_of_a_variant_are_compared_with_those_of_float_at_the_surest_candidates():
    outputs, _ = random_case(1)
    masks = Masks(CLASSES, SIDE)
    own = masks.reported(outputs)
    boxes, _ = decode_ultralytics(outputs, CLASSES)
    anchors = np.tile(np.arange(4), (len(boxes), 1))
    assert not masks.lost(boxes[:, :4], anchors, own, own).any()
    none = masks.lost(boxes[:, :4], anchors, own, [-own[0], own[1]])
    assert none.min() == 1


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (np.zeros((1, 11, 3)), "Expected a segmentation model to give detections and the prototyp"),
        ((np.zeros((1, 9, 3)), np.zeros((1, 5, 8, 8))), "got 3 coefficients and an output "),
    ],
)
def test_outputs_without_masks_are_refused(outputs, message):
    with pytest.raises(TaskError, match=message):
        Masks(CLASSES, SIDE).reported(outputs)


def test_objects_without_an_outline_are_refused():
    image = LabelledImage(Path("b.png"), np.ones((1, 4)), np.zeros(1, int), np.zeros(1, bool))
    with pytest.raises(TaskError, match="Expected outlines of the objects in b.png for a segmen"):
        Masks(CLASSES, SIDE).truth([image], 1)
