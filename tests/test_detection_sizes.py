"""Average precision of small, medium and large objects, against pycocotools."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.detection_reference import pycocotools_ap
from support.reporting_samples import complete

from sensitivity.journal.journal import open_journal
from sensitivity.measure.detail import detection_detail
from sensitivity.records import Estimate, Scores, Variant
from sensitivity.reporting.formats import MINUS
from sensitivity.reporting.page import render
from sensitivity.reporting.tables import detection_table
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import batch_digest
from sensitivity.tasks.detection import OLD_SCORES, DetectionScore, pad_truth, with_rows_of
from sensitivity.tasks.detection_boxes import Detections, Suppression, decode_corners
from sensitivity.tasks.detection_detail import DetectionDetail, SizeResult
from sensitivity.tasks.detection_keypoints import COCO_SIGMAS, KeyPoints
from sensitivity.tasks.detection_labels import LabelledImage
from sensitivity.tasks.detection_map import Truth, average_precision, image_scores
from sensitivity.tasks.detection_rotated import RotatedScore
from sensitivity.tasks.detection_sizes import SIZES, rows_of_size, size_scores

CLASSES = 3


def crowded_images(seed: int, n: int = 12, limit: int = 40, most: int = 9):
    """Detections scattered around objects of all sizes. A third of the objects have the area of
    their box, a third another one, and a third one that belongs to two sizes."""
    random = np.random.default_rng(seed)
    corner = random.random((n, most, 2)) * 200
    extent = np.exp(random.uniform(np.log(8), np.log(200), (n, most, 2)))
    boxes = np.concatenate([corner, corner + extent], axis=2)
    of_boxes = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
    on_the_edge = random.choice([32.0**2, 96.0**2], (n, most))
    areas = np.choose(random.integers(0, 3, (n, most)), [of_boxes, 0.6 * of_boxes, on_the_edge])
    classes = random.integers(-1, CLASSES, (n, most))
    truth = Truth(boxes, classes, random.random((n, most)) < 0.2, areas)
    source = random.integers(0, most, (n, limit))
    near = np.take_along_axis(boxes, source[..., None], axis=1)
    near = near + random.normal(0, 6, (n, limit, 4))
    near[..., 2:] = np.maximum(near[..., 2:], near[..., :2] + 1)
    count = random.integers(0, limit + 1, (n, 1))
    confidences = -np.sort(-random.random((n, limit), np.float32), axis=1)
    confidences = np.where(np.arange(limit) < count, confidences, np.float32(0))
    labels = np.maximum(np.take_along_axis(classes, source, axis=1), 0)
    return Detections(near, confidences, labels), truth


def by_size(found: Detections, truth: Truth, size: str) -> np.ndarray:
    rows, sizes = image_scores(found, truth, CLASSES), size_scores(found, truth, CLASSES)
    return average_precision(rows_of_size(rows, sizes, CLASSES, size), CLASSES)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(6))
def test_the_precision_of_a_size_is_that_of_pycocotools(seed: int, size: str) -> None:
    found, truth = crowded_images(seed)
    reference = pycocotools_ap(found, truth, CLASSES, size=SIZES[size])
    ours = by_size(found, truth, size)
    np.testing.assert_allclose(ours, reference, atol=1e-9)
    assert 0.02 < np.nanmean(ours) < 0.98


@pytest.mark.parametrize("size", SIZES)
def test_without_labelled_areas_those_of_the_boxes_are_taken(size: str) -> None:
    found, truth = crowded_images(7)
    corners = truth.boxes
    areas = (corners[..., 2] - corners[..., 0]) * (corners[..., 3] - corners[..., 1])
    reference = pycocotools_ap(found, replace(truth, areas=areas), CLASSES, size=SIZES[size])
    np.testing.assert_allclose(
        by_size(found, replace(truth, areas=None), size), reference, atol=1e-9
    )


NAMES = ("a", "b", "c")
SMALL, LARGE = [2.0, 2, 22, 22], [10.0, 10, 190, 190]


def judge(limit: int = 6) -> DetectionScore:
    return DetectionScore(NAMES, decode_corners, Suppression(limit=limit))


def labelled(*boxes: list[float]) -> LabelledImage:
    labels, crowd = np.zeros(len(boxes), np.int64), np.zeros(len(boxes), bool)
    return LabelledImage(Path("a.jpg"), np.array(boxes).reshape(-1, 4), labels, crowd, (200, 200))


def targets_of(images: list[LabelledImage]) -> dict[str, np.ndarray]:
    truth = pad_truth(images, 2)
    return {
        "boxes": truth.boxes,
        "classes": truth.classes,
        "crowd": truth.crowd,
        "geometry": np.tile([1.0, 1, 0, 0, 200, 200], (len(images), 1)),
    }


def outputs(*images: list[list[float]]) -> np.ndarray:
    """A model's outputs [n, 4 + 3, 2]: up to two boxes of the first class in each image."""
    given = np.zeros((len(images), 7, 2), np.float32)
    for row, boxes in enumerate(images):
        for column, box in enumerate(boxes):
            given[row, :, column] = [*box, 0.9, 0, 0]
    return given


def rows_of(study_judge: DetectionScore, hits: list[bool]) -> Scores:
    """Records of images that each show a small and a large object. The large one is found in all,
    the small one where `hits` says so."""
    found = [[LARGE, SMALL] if is_hit else [LARGE] for is_hit in hits]
    return study_judge(outputs(*found), targets_of([labelled(SMALL, LARGE)] * len(hits)))


def study_of(scores: dict[str, Scores], score: DetectionScore) -> Any:
    """A study whose measurer knows these scores of its variants."""
    task = Task(None, {"holdout": ()}, score, score.aggregate, metric=score.metric)
    measurer = SimpleNamespace(
        task=task,
        stream=lambda variants, split, what: iter([[scores[one.label] for one in variants]]),
    )
    return SimpleNamespace(
        measurer=measurer,
        float_variant=Variant("float", frozenset()),
        baselines={"quantized": Variant("int8", frozenset())},
        plan_variant=lambda plan: Variant("partial", frozenset()),
    )


def test_a_detail_says_what_each_size_loses_with_paired_intervals() -> None:
    score, hits = judge(), [True] * 6 + [False] * 2
    found = {
        "float": rows_of(score, [True] * 8),
        "int8": rows_of(score, hits),
        "partial": rows_of(score, [True] * 8),
    }
    detail = detection_detail(study_of(found, score), SimpleNamespace(skip=()))  # type: ignore[arg-type]
    assert detail is not None
    small, medium, large = detail.sizes
    assert [size.name for size in detail.sizes] == ["small", "medium", "large"]
    assert [size.objects for size in detail.sizes] == [8, 0, 8]
    assert medium.precision == medium.change == {}
    # 6 of 8 are found with certainty: precision is 1 up to recall 3/4, 76 of 101 thresholds.
    assert small.precision["int8"].value == pytest.approx(76 / 101)
    assert small.change["int8"].value == pytest.approx(76 / 101 - 1)
    assert small.change["int8"].has_interval
    assert small.change["partial"].value == large.change["int8"].value == 0.0
    assert (detail.split, detail.n, detail.size_note) == ("holdout", 8, "")
    assert detail.changes["mAP50-95"]["int8"].value == pytest.approx(-(25 / 101) / 2, abs=0.02)


def test_the_number_of_images_is_that_of_all_however_many_are_left_out_together() -> None:
    score = judge()
    rows = np.repeat(rows_of(score, [True, False]), 105, axis=0)
    study = study_of(dict.fromkeys(("float", "int8", "partial"), rows), score)
    detail = detection_detail(study, SimpleNamespace(skip=()))  # type: ignore[arg-type]
    assert detail is not None
    assert detail.n == detail.sizes[0].objects == detail.metrics["mAP50-95"]["float"].n == 210


def test_objects_of_a_single_image_have_no_interval() -> None:
    score = judge()
    targets = targets_of([labelled(SMALL, LARGE), labelled(LARGE)])
    rows = score(outputs([LARGE, SMALL], [LARGE]), targets)
    study = study_of(dict.fromkeys(("float", "int8", "partial"), rows), score)
    detail = detection_detail(study, SimpleNamespace(skip=()))  # type: ignore[arg-type]
    assert detail is not None
    small, _, large = detail.sizes
    assert small.precision["float"] == Estimate(1.0, None, None, 2)
    assert large.precision["float"].has_interval


def test_records_without_areas_are_read_and_say_that_they_have_no_sizes(tmp_path: Path) -> None:
    old = replace(judge(), sized=False)
    before = rows_of(old, [True, False])
    with open_journal(tmp_path / "journal.jsonl", {}, resume=False) as journal:
        assert journal.row_shape is None
        journal.add_batch("rank:boxes", 0, "a")
        journal.add_scores(Variant("float", frozenset()), "rank:boxes", 0, np.zeros(2))
        assert journal.row_shape is None  # a signal has one value
        journal.add_batch("rank", 0, "a")
        journal.add_scores(Variant("float", frozenset()), "rank", 0, before)
        shape = journal.row_shape
    task = Task(None, {"holdout": ()}, judge(), judge().aggregate, metric="mAP50-95")
    continued = with_rows_of(task, shape).score
    assert isinstance(continued, DetectionScore)
    assert np.array_equal(rows_of(continued, [True, False]), before)
    assert task.aggregate(before) == task.aggregate(rows_of(judge(), [True, False]))
    detail = detection_detail(
        study_of(dict.fromkeys(("float", "int8", "partial"), before), continued),
        SimpleNamespace(skip=()),  # type: ignore[arg-type]
    )
    assert detail is not None
    assert (detail.sizes, detail.size_note) == ((), OLD_SCORES)


def test_a_run_with_areas_keeps_them() -> None:
    task = Task(None, {"holdout": ()}, judge(), judge().aggregate, metric="mAP50-95")
    shape = rows_of(judge(), [True]).shape[1:]
    assert with_rows_of(task, shape) is with_rows_of(task, None) is task


def test_areas_do_not_count_in_the_digest_of_a_batch() -> None:
    """The digest of an earlier version's run knows none."""
    targets = targets_of([labelled(SMALL)])
    with_areas = targets | {"areas of the objects": np.array([[400.0, 0.0]])}
    assert batch_digest(0, with_areas) == batch_digest(0, targets)
    assert batch_digest(0, targets | {"areas": 1}) != batch_digest(0, targets)


def test_notes_say_what_is_not_judged_by_size() -> None:
    points = KeyPoints(3, 17, 3, COCO_SIGMAS)
    assert replace(judge(), part=points).size_note == (
        "Boxes alone are judged by size; the key-point AP is not."
    )
    rotated = RotatedScore(NAMES, decode_corners, Suppression())
    assert rotated.size_note == (
        "There is no AP by size, which COCO defines for upright boxes: these are rotated."
    )
    assert rotated.size_rows(np.zeros((1, 604))) == {}


def shown_detail() -> DetectionDetail:
    level = {name: Estimate(0.4, 0.3, 0.5, 50) for name in ("float", "int8", "partial")}
    change = {
        "int8": Estimate(-0.052, -0.081, -0.013, 50),
        "partial": Estimate(0.003, -0.011, 0.02, 50),
    }
    sizes = (
        SizeResult("small", 1234, level, change),
        SizeResult("medium", 20, level, change | {"int8": Estimate(0.0, -0.1, 0.1, 50)}),
        SizeResult("large", 0, {}, {}),
    )
    metrics, changes = {"mAP50-95": level}, {"mAP50-95": change}
    return DetectionDetail(50, (), metrics, (), (), None, "holdout", changes, sizes, size_note="")


def test_the_report_shows_each_size_with_its_differences() -> None:
    text = render(replace(complete(8), detection=shown_detail()))
    assert "On 50 images of holdout, which no choice used." in text
    assert "INT8 lowers the AP of small objects by more than chance explains." in text
    assert "The plan lowers no AP by more than chance explains." in text
    small, medium, large = (
        text.partition(f'<td class="name">{size} <small>')[2].partition("</tr>")[0]
        for size in ("small", "medium", "large")
    )
    assert "1,234" in small
    assert f"[{MINUS}8.1, {MINUS}1.3]" in small
    assert "32² to 96² px" in medium
    assert large.endswith('<td class="number">no objects</td><td colspan="5"></td>')


def test_the_report_of_earlier_scores_says_why_it_shows_no_sizes() -> None:
    old = DetectionDetail(50, (), {}, (), ())
    text = render(replace(complete(8), detection=old))
    assert "Size of the objects" in text
    assert "its scores do not hold the areas of objects" in text
    assert "no objects" not in text
    assert "of rank, which chose the layers" in text


def test_the_table_has_a_row_for_each_number_and_variant() -> None:
    table = detection_table(shown_detail())
    assert len(table) == 3 * 4
    int8 = table[table["variant"] == "int8"].set_index("number")
    assert list(int8.index) == ["mAP50-95", "AP small", "AP medium", "AP large"]
    assert int8.loc["AP small", ["objects", "change", "change_low", "change_high"]].tolist() == [
        1234, -0.052, -0.081, -0.013
    ]  # fmt: skip
    assert pd.isna(int8.loc["AP large", "value"])
    assert int8.loc["AP large", "objects"] == 0
    assert pd.isna(int8.loc["mAP50-95", "objects"])
    assert detection_table(DetectionDetail(0, (), {}, (), ())).empty
