"""Each family of the ultralytics package, built from its own configuration without weights, is
supported."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from support.yolo_models import NAMES, coco, images, save, yolo
from support.yolo_way import whole_way

from sensitivity.config import YoloSettings
from sensitivity.tasks.detection_boxes import (
    Suppression,
    decode_corners,
    decode_shares,
    decode_ultralytics,
    detections,
)
from sensitivity.workflows.yolo import prepare
from sensitivity.workflows.yolo_weights import give_raw, prepared

FAMILIES = ("yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n")
HEADS = {
    "yolov8n-seg": "SegmentationModel",
    "yolo26n-pose": "PoseModel",
    "yolo26n-obb": "OBBModel",
    "yolov8n-rtdetr": "RTDETRDetectionModel",
    "yolov8n-worldv2": "WorldModel",
    "yolov8n-cls": "ClassificationModel",
}
END2END = ("yolov10n", "yolo26n", "yolo26n-pose", "yolo26n-obb")
CHOOSES = (*END2END, "yolov8n-rtdetr")
ALIKE = ("yolov5n", "yolov8n", "yolov9t", "yolo12n")
"""Networks of which each part is also part of another one. They take a minute of a core each."""

WITH_ALIKE = "SENSITIVITY_ALL_TESTS" in os.environ
SIZE = {"imgsz": 64, "batch": 2, "calib_images": 4}


@pytest.mark.parametrize("family", [*FAMILIES, *HEADS])
def test_a_family_goes_the_whole_way_from_weights_to_verified_files(family, tmp_path):
    if family in ALIKE and not WITH_ALIKE:
        pytest.skip("its parts are tested in others; SENSITIVITY_ALL_TESTS=1 runs it")
    weights, data = (
        save(
            yolo(f"{family}.yaml", HEADS.get(family, "DetectionModel")), tmp_path / f"{family}.pt"
        ),
        coco(tmp_path),
    )
    if family.endswith("cls"):
        data = tmp_path / "data"
        for name in NAMES:
            images(data / name, 8)
    own = prepare(
        YoloSettings(
            weights=weights, data=data, out=tmp_path / "run", end2end=family in END2END, **SIZE
        )
    )
    task = whole_way(own.task, tmp_path / "run", "model.0*", "model.[1-9]*")
    assert (task.finish is not None) == (family in CHOOSES)


def test_re_parameterised_blocks_of_v9_and_v10_are_plain_convolutions_and_named():
    for config, kind in (("yolov9t.yaml", "RepConv"), ("yolov10n.yaml", "RepVGGDW")):
        found = prepared(yolo(config), config)
        blocks = [
            name for name, module in found.model.named_modules() if type(module).__name__ == kind
        ]
        assert blocks
        assert set(blocks) == set(found.repvgg)
        convolutions = [
            sum(isinstance(m, torch.nn.Conv2d) for m in found.model.get_submodule(b).modules())
            for b in blocks
        ]
        assert set(convolutions) == {1}


@pytest.mark.parametrize("family", ["yolov10n", "yolo26n"])
def test_the_one_to_one_head_gives_all_candidates_as_corners(family):
    model = yolo(f"{family}.yaml")
    inputs = torch.rand(1, 3, 64, 64)
    model.end2end = True
    with torch.no_grad():
        best = model(inputs)[0]  # the model's own choice: x1 y1 x2 y2 confidence class
    found = prepared(model, family, end2end=True)
    assert found.end2end
    with torch.no_grad():
        boxes, confidences = decode_corners(found.model(inputs), len(NAMES))
    assert confidences.shape == (1, len(NAMES), 84)
    for *box, confidence, label in best[0, ::20].numpy():
        distance = np.abs(boxes[0] - box).max(axis=1) + np.abs(
            confidences[0, int(label)] - confidence
        )
        assert distance.min() < 2e-3 * max(1.0, np.abs(box).max())


def test_queries_of_rtdetr_are_decoded_to_the_boxes_that_its_own_head_chooses():
    model = yolo("yolov8n-rtdetr.yaml", "RTDETRDetectionModel")
    inputs = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        best = model(inputs)[0].numpy()  # parts of the input, confidence and class
    found = prepared(model, "rtdetr")
    assert found.chooses
    with torch.no_grad():
        boxes, confidences = decode_shares(found.model(inputs), (64, 96), len(NAMES))
    reported = detections(boxes, confidences, Suppression(confidence=0, iou=1.0, per_class=300))
    centre, size = (best[..., at : at + 2] * [96, 64] for at in (0, 2))
    expected = np.concatenate([centre - size / 2, centre + size / 2], axis=2)
    assert np.ptp(best[..., 4]) > 1e-3
    np.testing.assert_allclose(reported.confidences[:, :300], best[..., 4], rtol=1e-4)
    for image in range(2):  # boxes that are as sure as others come in any order
        apart = np.abs(expected[image, :20, None] - reported.boxes[image, None]).max(axis=2)
        alike = (apart < 1e-2) & (
            best[image, :20, 5, None] == reported.classes[image, None].astype(float)
        )
        assert alike.any(axis=1).all()


def test_raw_output_of_a_family_without_box_bins_is_decoded_too():
    from sensitivity.tasks.detection_boxes import decode_bins

    inputs = torch.rand(1, 3, 64, 64)
    found = prepared(yolo("yolo26n.yaml"), "yolo26n")
    with torch.no_grad():
        expected = decode_ultralytics(found.model(inputs))
        give_raw(found)
        decoded = decode_bins(found.model(inputs), 64)
    for one, other in zip(expected, decoded, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-3)
