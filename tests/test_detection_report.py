"""The report of a detector beyond its mAP: classes, worst images with their boxes, marked parts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from support.reporting_samples import complete
from support.yolo_models import NAMES, coco, save, yolo

from sensitivity.cli.main import group
from sensitivity.records import Estimate, Unit
from sensitivity.reporting.page import render
from sensitivity.steps.report import report_data
from sensitivity.tasks.detection import DetectionScore
from sensitivity.tasks.detection_boxes import Detections, Suppression, decode_ultralytics
from sensitivity.tasks.detection_detail import (
    ClassResult,
    DetectionDetail,
    ShownBox,
    ShownImage,
    class_results,
    shown_boxes,
)
from sensitivity.tasks.detection_labels import LabelledImage
from sensitivity.tasks.detection_map import Truth, average_precision, image_scores

EVIL = "<script>alert(1)</script>"


def image_of(boxes: list[list[float]], classes: list[int]) -> tuple[LabelledImage, Truth]:
    corners, labels = np.array(boxes, float).reshape(-1, 4), np.array(classes, np.int64)
    crowd = np.zeros(len(labels), bool)
    return LabelledImage(Path("a.jpg"), corners, labels, crowd, (100, 50)), Truth(
        corners[None], labels[None], crowd[None]
    )


def found_of(rows: list[tuple[list[float], float, int]]) -> Detections:
    boxes, confidences, classes = (np.array([row[at] for row in rows])[None] for at in range(3))
    return Detections(
        boxes.astype(float).reshape(1, -1, 4),
        confidences.astype(np.float32),
        classes.astype(np.int64),
    )


def test_boxes_are_found_false_or_missed_as_the_metric_counts_them_and_shares_of_the_image():
    image, truth = image_of([[0, 0, 20, 20], [40, 10, 60, 30], [80, 0, 100, 10]], [0, 1, 2])
    found = found_of(
        [
            ([0, 0, 20, 18], 0.9, 0),
            ([0, 0, 20, 20], 0.8, 0),
            ([40, 10, 60, 30], 0.7, 2),
            ([80, 0, 100, 10], 0.1, 2),
        ]
    )
    shown = shown_boxes(found, truth, image, NAMES)
    assert [(box.name, box.outcome) for box in shown] == [
        ("cat", "found"), ("cat", "false"), ("cow", "false"), ("dog", "missed"), ("cow", "missed")
    ]  # fmt: skip
    assert (shown[3].x, shown[3].y, shown[3].width, shown[3].height) == pytest.approx(
        (0.4, 0.2, 0.2, 0.4)
    )
    assert shown[0].confidence == pytest.approx(0.9)
    assert shown[3].confidence is None


def test_classes_come_with_their_boxes_the_most_hurt_first():
    _, truth = image_of([[0, 0, 20, 20], [40, 10, 60, 30]], [0, 2])
    good = image_scores(found_of([([0, 0, 20, 20], 0.9, 0), ([40, 10, 60, 30], 0.8, 2)]), truth, 3)
    bad = image_scores(found_of([([0, 0, 20, 20], 0.9, 0), ([40, 10, 60, 30], 0.0, 2)]), truth, 3)
    judge = DetectionScore(NAMES, decode_ultralytics, Suppression())
    results = class_results({"float": good, "int8": bad, "partial": good}, judge)
    assert [(one.name, one.boxes) for one in results] == [("cow", 1), ("cat", 1)]
    assert results[0].precision == pytest.approx({"float": 1.0, "int8": 0.0, "partial": 1.0})
    assert results[1].precision["int8"] == pytest.approx(average_precision(bad, 3)[:, 0].mean())


def detail(skip: tuple[str, ...]) -> DetectionDetail:
    one = {variant: Estimate(0.4, 0.3, 0.5, 20) for variant in ("float", "int8", "partial")}
    classes = tuple(
        ClassResult(f"class {at}", at, {"float": 0.5, "int8": 0.4, "partial": 0.45})
        for at in range(14)
    )
    box = ShownBox(0.1, 0.1, 0.5, 0.5, EVIL, 0.87, "false")
    boxes = {
        "float": (),
        "int8": (box,),
        "partial": (replace(box, outcome="missed", confidence=None),),
    }
    image = ShownImage(EVIL, "data:image/jpeg;base64,AAAA", 480, 320, 0.0021, boxes)
    return DetectionDetail(20, skip, {"mAP50-95": one, "mAP50": one}, classes, (image,))


def test_the_page_shows_metrics_classes_and_each_image_three_times_with_its_boxes():
    data = complete(8)
    text = render(replace(data, detection=detail(())))
    assert "script>alert" not in text
    assert text.count("data:image/jpeg") == 1  # the other panels refer to it
    assert len(re.findall(r'<g class="box (?:false|missed)"><title>', text)) == 2
    assert "87 %, false" in text
    assert "costs 0.21" in text
    assert "The other 2 classes" in text
    assert "mAP50<" in text
    assert "Classes and images" not in render(data)


def test_an_image_on_which_nothing_is_reported_is_not_shown():
    """The report of a model whose confidences are all low: three empty pictures would say
    nothing."""
    made = detail(())
    boxes = {name: (replace(made.images[0].boxes["partial"][0]),) for name in made.images[0].boxes}
    silent = replace(made, images=(replace(made.images[0], boxes=boxes),))
    text = render(replace(complete(8), detection=silent))
    assert "Classes and images" in text
    assert "Images that cost INT8 most" not in text


def test_heads_and_repvgg_blocks_are_marked_in_the_chart_and_in_the_table():
    data = complete(8)
    units = (
        replace(data.units[0], kind="head"),
        replace(data.units[1], kind="repvgg"),
        *data.units[2:],
    )
    text = render(replace(data, units=units))
    assert (
        text.count('<span class="part">head</span>')
        == text.count('<span class="part">RepVGG</span>')
        == 2
    )
    assert '<span class="part">' not in render(data)


def test_a_run_of_a_detector_writes_and_shows_its_classes_and_images(tmp_path):
    weights, data = save(yolo(), tmp_path / "a.pt"), coco(tmp_path, 12)
    words = [
        "yolo",
        "run",
        "--weights",
        weights,
        "--data",
        data,
        "--imgsz",
        "64",
        "--calib-images",
        "4",
        "--rounds",
        "2",
    ]
    done = CliRunner().invoke(
        group, [*map(str, words), "--no-recalibrate", "--force", "--out", str(tmp_path / "run")]
    )
    assert done.exit_code in (0, 2), done.output
    report = report_data(tmp_path / "run")
    assert report.detection
    assert report.plan
    assert report.detection.skip == report.plan.skip
    assert set(report.detection.metrics) == {"mAP50-95", "mAP50"}
    assert {size.name: size.objects for size in report.detection.sizes} == {
        "small": 2, "medium": 0, "large": 0
    }  # fmt: skip
    assert report.detection.metrics["mAP50-95"]["partial"] == report.plan.metric.holdout
    table = pd.read_csv(tmp_path / "run" / "detection.csv")
    assert len(table) == 3 * (2 + 3)
    assert {unit.kind for unit in report.units} == {"layer", "head"}
    assert isinstance(report.units[0], Unit)
    assert "Classes and images" in (tmp_path / "run" / "report.html").read_text()
