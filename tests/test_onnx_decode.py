"""Outputs of detectors with and without a choice of boxes: exact values, and agreement with
ultralytics' own code on the same outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.boxes import to_input
from support.detection_reference import pycocotools_ap
from support.yolo_models import NAMES, yolo

from sensitivity.tasks.detection import DetectionScore, pad_truth
from sensitivity.tasks.detection_boxes import (
    Detections,
    Suppression,
    decode_chosen,
    decode_queries,
    decode_raw,
    decode_ultralytics,
    detections,
)
from sensitivity.tasks.detection_images import placed, stretch, to_image
from sensitivity.tasks.detection_labels import LabelledImage, LabelledImages
from sensitivity.tasks.detection_map import average_precision
from sensitivity.tasks.onnx_decode import Decode, decode_name, decode_of_names, meaning

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(("shapes", "name"), [
    ([["n", 300, 84]], "rtdetr"), ([["n", 300, 80], ["n", 300, 4]], "rtdetr"),
    ([["n", 300, 4], ["n", 300, 80]], "rtdetr"), ([[1, 300, 6]], "end2end"),
    ([[1, 144, 80, 80], [1, 144, 40, 40], [1, 144, 20, 20]], "raw"),
    ([[1, 64, 8400], [1, 80, 8400]], "raw"), ([[1, 84, 8400], [1, 144, 80, 80]], "yolo"),
    ([[1, 8400, 4], [1, 8400, 80]], "corners"), ([[1, 80, 8400], [1, 8400, 4]], "corners"),
])  # fmt: skip
def test_outputs_are_recognized_by_their_shapes(shapes: list[list[Any]], name: str) -> None:
    assert decode_name(shapes, 640, 80) == name


def test_boxes_and_confidences_that_are_given_apart() -> None:
    boxes = np.array([[[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]], np.float32)
    confidences = np.array([[[0.5, 0.25, 0], [1, 0, 0.75]]], np.float32)
    by_anchor = np.moveaxis(confidences, 1, 2)
    for outputs in ((boxes, by_anchor), (by_anchor, boxes), [boxes, confidences]):
        found = Decode("corners", 64, 2)(outputs)
        assert found[0].tolist() == boxes.tolist()
        assert found[1].tolist() == confidences.tolist()


def test_queries_become_corners_in_pixels() -> None:
    boxes = np.array([[[0.5, 0.5, 0.25, 0.5], [0.125, 0.25, 0.25, 0.5]]], np.float32)
    logits = np.array([[[0.0, -200.0, 200.0], [200.0, 0.0, -200.0]]], np.float32)
    expected = [[[48, 16, 80, 48], [0, 0, 32, 32]]]
    confidences = [[[0.5, 1], [0, 0.5], [1, 0]]]
    scores = np.moveaxis(np.array(confidences, np.float32), 1, 2)
    for outputs in ([logits, boxes], (boxes, logits), np.concatenate([boxes, scores], 2)):
        found = decode_queries(outputs, (64, 128), 3)
        assert found[0].tolist() == expected
        np.testing.assert_allclose(found[1], confidences, atol=1e-7)
    chosen = np.concatenate([boxes, [[[0.75, 2], [0.5, 0]]]], 2)
    assert decode_queries([chosen], (64, 128), 3)[1].tolist() == [[[0, 0.5], [0, 0], [0.75, 0]]]


def test_two_classes_are_told_from_a_confidence_and_a_class() -> None:
    rows = np.array([[[0.5, 0.5, 1, 1, 0.75, 0.25]]], np.float32)
    assert decode_queries(rows, 64, 2)[1].tolist() == [[[0.75], [0.25]]]
    rows[..., 5] = 1
    assert decode_queries(rows, 64, 2)[1].tolist() == [[[0], [0.75]]]


def test_queries_agree_with_those_of_ultralytics() -> None:
    from ultralytics.models.rtdetr.val import RTDETRValidator

    draw = torch.Generator().manual_seed(0)
    rows = torch.rand((2, 20, 6), generator=draw)
    rows[..., 5] = (rows[..., 5] * 3).floor()
    rows = torch.stack([each[each[:, 4].argsort(descending=True)] for each in rows])
    args = SimpleNamespace(imgsz=(64, 96), classes=None, conf=0.001, max_det=300)
    theirs = RTDETRValidator.postprocess(SimpleNamespace(args=args), rows)
    decode = Decode("rtdetr", (64, 96), 3)
    found = detections(*decode([rows.numpy()]), decode.rule)
    for image, each in enumerate(theirs):
        n = len(each["conf"])
        assert n == 20
        np.testing.assert_allclose(found.boxes[image, :n], each["bboxes"], rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(found.confidences[image, :n], each["conf"])
        np.testing.assert_array_equal(found.classes[image, :n], each["cls"])
        assert not found.confidences[image, n:].any()


SSD = ("bboxes", "labels", "scores")
TENSORFLOW = ("num_detections:0", "detection_boxes:0", "detection_scores:0", "detection_classes:0")


def selected_outputs(seed: int, names: Sequence[str], ids: Sequence[int]) -> dict[str, Any]:
    """Boxes that a model selects: those of two objects, moved, and others, as parts of the
    input."""
    draw = np.random.default_rng(seed)
    corners = np.sort(draw.random((1, 9, 2, 2)), axis=2).reshape(1, 9, 4).astype(np.float32)
    corners[0, :2] = np.array(OBJECTS) / [80, 40, 80, 40] + draw.normal(0, 0.02, (2, 4))
    labels = np.array([[0, 1, *draw.integers(0, len(ids), 7)]])
    values = {"boxes": corners, "labels": np.array(ids)[labels], "scores": draw.random((1, 9))}
    if names is TENSORFLOW:
        values["boxes"] = corners[..., [1, 0, 3, 2]]
        values["labels"] = values["labels"].astype(np.float32)
    words = {"bboxes": "boxes", "classes": "labels", "num_detections:0": "count"}
    values["count"] = np.array([9.0])
    kinds = [name.partition(":")[0].rpartition("_")[2] for name in names]
    return {
        name: values["count" if kind == "detections" else words.get(kind, kind)]
        for name, kind in zip(names, kinds, strict=True)
    }


OBJECTS = ((8.0, 4, 40, 30), (44.0, 10, 76, 36))
"""Corners in an image of 80 x 40 pixels, of a class each."""


@pytest.mark.parametrize(
    ("names", "form", "ids"), [(SSD, "ssd", (1, 2, 3)), (TENSORFLOW, "tensorflow", (3, 7, 90))]
)
def test_boxes_labels_and_scores_apart_are_judged_as_pycocotools_does(
    names: tuple[str, ...], form: Any, ids: tuple[int, ...]
) -> None:
    assert decode_of_names(names) == form
    image = LabelledImage(
        Path("a.png"), np.array(OBJECTS), np.array([0, 1]), np.zeros(2, bool), (80, 40)
    )
    data = LabelledImages((image,) * 6, NAMES, ids=(3, 7, 90))
    decode = meaning(form, (32, 64), data, names)
    judge = DetectionScore(NAMES, decode, decode.rule)
    truth = pad_truth(data.images, 2)
    given = [selected_outputs(seed, names, ids) for seed in range(6)]
    targets = {"boxes": truth.boxes, "classes": truth.classes, "crowd": truth.crowd}
    targets["geometry"] = np.stack([stretch(80, 40, (32, 64))] * 6)
    rows = [
        judge(tuple(values.values()), {name: each[at : at + 1] for name, each in targets.items()})
        for at, values in enumerate(given)
    ]
    # What a reference script does: boxes as parts of the image, whatever its size.
    found = Detections(np.zeros((6, 9, 4)), np.zeros((6, 9), np.float32), np.zeros((6, 9), int))
    for at, values in enumerate(given):
        by_kind = {kind: values[name] for name in names for kind in KINDS if kind in name}
        corners = by_kind["boxes"][0]
        corners = corners[:, [1, 0, 3, 2]] if form == "tensorflow" else corners
        order = np.argsort(-by_kind["scores"][0])
        found.boxes[at] = corners[order] * [80, 40, 80, 40]
        found.confidences[at] = by_kind["scores"][0][order]
        labels = by_kind["labels" if form == "ssd" else "classes"][0][order]
        found.classes[at] = [ids.index(int(label)) for label in labels]
    expected = pycocotools_ap(found, truth, len(NAMES))
    ours = average_precision(judge.box_rows(np.concatenate(rows)), len(NAMES))
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert 0.05 < np.nanmean(expected) < 0.95


KINDS = ("boxes", "labels", "classes", "scores")


@pytest.fixture(scope="module")
def heads() -> dict[str, Any]:
    """Maps of each level before decoding, and what ultralytics makes of them, for a v8 and a 26."""
    found = {}
    for config in ("yolov8n.yaml", "yolo26n.yaml"):
        model, draw = yolo(config), torch.Generator().manual_seed(0)
        with torch.no_grad():
            _, raw = model(torch.rand(1, 3, 64, 96, generator=draw))
        found[config] = (model, raw)
    return found


def levels_of(bins: np.ndarray, logits: np.ndarray) -> list[np.ndarray]:
    """The same as maps [n, channels, height, width] of an input of 64 x 96."""
    both, maps = np.concatenate([bins, logits], axis=1), []
    for step in (8, 16, 32):
        h, w = 64 // step, 96 // step
        maps.append(both[..., : h * w].reshape(len(both), -1, h, w))
        both = both[..., h * w :]
    return maps


@pytest.mark.parametrize("form", ["maps", "bins-logits", "logits-bins"])
@pytest.mark.parametrize("config", ["yolov8n.yaml", "yolo26n.yaml"])
def test_a_head_without_its_decoding_gives_what_ultralytics_decodes(
    heads: dict[str, Any], config: str, form: str
) -> None:
    model, raw = heads[config]
    raw = raw.get("one2many", raw)
    bins, logits = (raw[name].numpy() for name in ("boxes", "scores"))
    outputs = {
        "maps": levels_of(bins, logits),
        "bins-logits": [bins, logits],
        "logits-bins": [logits, bins],
    }[form]
    found = decode_raw(outputs, (64, 96), len(NAMES))
    head = model.model[-1]
    before, head.end2end = head.end2end, False
    try:
        theirs = head._inference(raw).numpy()
    finally:
        head.end2end = before
    expected = decode_ultralytics(theirs)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


@pytest.mark.parametrize("classes", [1, 3])
def test_chosen_boxes_are_reported_as_they_are(classes: int) -> None:
    """As `nms=True` exports and the one-to-one heads of v10 and 26 give them: [n, 300, 6]."""
    from ultralytics.utils.nms import non_max_suppression

    draw = torch.Generator().manual_seed(0)
    raw = torch.rand((2, 4 + classes, 200), generator=draw) * 40
    raw[:, 4:] /= 40
    theirs = non_max_suppression(
        raw, conf_thres=0.001, iou_thres=0.7, multi_label=True, nc=classes, max_det=300
    )
    rows = np.zeros((2, 300, 6), np.float32)
    for image, each in enumerate(theirs):
        rows[image, : len(each)] = each.numpy()
    decode = Decode("end2end", 64, classes)
    found = detections(*decode([rows]), decode.rule)
    own = detections(*decode_ultralytics([raw.numpy()]), Suppression())
    for image, each in enumerate(theirs):
        n = min(len(each), 100)
        np.testing.assert_allclose(found.boxes[image, :n], each[:n, :4], atol=1e-5)
        np.testing.assert_array_equal(found.classes[image, :n], each[:n, 5])
    np.testing.assert_allclose(found.confidences, own.confidences, atol=1e-7)
    assert decode_chosen([rows], classes)[1].shape == (2, classes, 300)


def test_an_image_is_stretched_over_the_input_and_boxes_come_back() -> None:
    image = Image.new("RGB", (200, 100), (255, 0, 0))
    pixels, geometry = placed(image, (64, 64), stretch(200, 100, (64, 64)))
    assert pixels.shape == (64, 64, 3)
    assert (pixels[..., 0] == 255).all(), "no border"
    box = np.array([[20.0, 10, 180, 90]])
    np.testing.assert_allclose(to_image(to_input(box, geometry), geometry), box)
    np.testing.assert_allclose(to_image(np.array([[0.0, 0, 64, 64]]), geometry), [[0, 0, 200, 100]])
