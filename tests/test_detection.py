import contextlib
import io
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.scripts import load_script

from sensitivity.errors import TaskError
from sensitivity.tasks import detection
from sensitivity.tasks.detection import detection_task, random_splits
from sensitivity.tasks.detection_boxes import decode_yolox
from sensitivity.tasks.detection_labels import LabelledImage, coco_images
from sensitivity.tasks.detection_map import (
    average_precision,
    mean_average_precision,
    mean_average_precision_50,
)

ASSETS = os.environ.get("SENSITIVITY_ASSETS")
EXAMPLE = Path(__file__).parent.parent / "examples" / "03_yolov8n" / "task.py"


@pytest.fixture
def images(tmp_path):
    """A white square on black in images of odd sizes and modes, one of which has no object."""
    made = []
    for number, (width, height, mode) in enumerate(
        [(90, 60, "RGB"), (31, 77, "L"), (64, 64, "P"), (50, 20, "RGB")]
    ):
        picture = Image.new("RGB", (width, height))
        picture.paste((255, 255, 255), (4, 2, 24, 12))
        picture.convert(mode).save(tmp_path / f"{number}.png")
        box = np.array([[4.0, 2, 24, 12]])[: 0 if number == 2 else 1]
        labels = np.zeros(len(box), np.int64), np.zeros(len(box), bool)
        made.append(LabelledImage(tmp_path / f"{number}.png", box, *labels))
    return made


def whiteness(inputs):
    """A detector of the white square: [n, 4 + 2, 1], centre, size, confidences of two classes."""
    rows = []
    for image in inputs.mean(dim=1):
        y, x = torch.nonzero(image > 0.9, as_tuple=True)
        if len(x):
            x1, y1, x2, y2 = x.min(), y.min(), x.max() + 1, y.max() + 1
            rows.append([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.9, 0.0])
        else:
            rows.append([0.0] * 6)
    return torch.tensor(rows)[:, :, None]


def scored(task):
    with torch.no_grad():
        return np.concatenate(
            [task.score(task.model(inputs), targets) for inputs, targets in task.data["rank"]]
        )


def test_a_detector_that_finds_the_squares_is_scored_in_the_pixels_of_each_image(images):
    task = detection_task(whiteness, {"rank": images}, ["square", "circle"], size=160, batch=3)
    inputs, targets = next(iter(task.data["rank"]))
    found = task.score.detections(whiteness(inputs), targets)
    np.testing.assert_allclose(found.boxes[0, 0], [4, 2, 24, 12], atol=0.6)
    scores = scored(task)
    assert scores.shape == (4, (2 * 300 + 2) + (300 + 2))
    scores = task.score.without_sizes(scores)
    # The third image shows the square without a label: of four equally confident detections in
    # order of the images, precision is 1 up to recall 2/3 (67 of 101 recall thresholds) and 3/4
    # beyond.
    assert mean_average_precision_50(scores, 2) == pytest.approx((67 + 34 * 0.75) / 101)
    assert task.aggregate(scores) == mean_average_precision(scores, 2)


def test_batches_can_be_read_again_and_hold_every_image_once_in_order(images):
    batches = detection_task(whiteness, {"rank": images}, ["a", "b"], size=32, batch=3).data["rank"]
    first, second = list(batches), list(batches)
    assert len(batches) == len(first) == 2
    assert [len(inputs) for inputs, _ in first] == [3, 1]
    for (inputs, targets), (again, targets_again) in zip(first, second, strict=True):
        assert torch.equal(inputs, again)
        assert inputs.dtype == torch.float32
        assert 0 <= inputs.min() < inputs.max() <= 1
        assert all(torch.equal(targets[name], targets_again[name]) for name in targets)
        assert {len(value) for value in targets.values()} == {len(inputs)}


def test_each_image_is_read_from_disk_once(images):
    batches = detection_task(whiteness, {"rank": images}, ["a", "b"], size=32).data["rank"]
    first = next(iter(batches))[0]
    for image in images:
        image.file.unlink()
    assert torch.equal(next(iter(batches))[0], first)


def test_images_that_do_not_fit_in_the_cache_are_read_again_and_are_the_same(images, monkeypatch):
    kept = list(detection_task(whiteness, {"rank": images}, ["a", "b"], size=32).data["rank"])
    monkeypatch.setattr(detection, "CACHE_BYTES", 2 * 32 * 32 * 3)
    batches = detection_task(whiteness, {"rank": images}, ["a", "b"], size=32).data["rank"]
    for _ in range(2):
        assert torch.equal(next(iter(batches))[0], kept[0][0])
    assert len(batches._kept) == 2


def test_the_scores_of_an_image_do_not_depend_on_the_size_of_the_batch(images):
    splits = {"rank": images}
    one, all_of_them = (
        detection_task(whiteness, splits, ["a", "b"], size=64, batch=size) for size in (1, 4)
    )
    assert np.array_equal(scored(one), scored(all_of_them))


def test_splits_are_disjoint_and_the_same_for_the_same_seed(images):
    many = [replace(images[0]) for _ in range(40)]
    splits = random_splits(many, seed=3)
    assert {name: len(split) for name, split in splits.items()} == {
        "rank": 10,
        "confirm": 20,
        "holdout": 10,
    }
    assert len({id(image) for split in splits.values() for image in split}) == 40
    again, other = random_splits(many, seed=3), random_splits(many, seed=4)
    assert [id(image) for image in again["rank"]] == [id(image) for image in splits["rank"]]
    assert [id(image) for image in other["rank"]] != [id(image) for image in splits["rank"]]


def test_impossible_splits_are_refused(images):
    with pytest.raises(TaskError, match=r"that add up to at most 4, got rank 3, confirm 3"):
        random_splits(images, sizes={"rank": 3, "confirm": 3})
    with pytest.raises(TaskError, match="Expected at least one image in each split, got none"):
        detection_task(whiteness, {"rank": []}, ["a"], size=32)


def test_a_model_with_other_classes_than_the_data_set_is_refused(images):
    task = detection_task(whiteness, {"rank": images}, ["a", "b", "c"], size=32)
    with pytest.raises(TaskError, match="the 3 classes that the data set names, got outputs for 2"):
        scored(task)


def test_confidences_that_are_not_numbers_are_refused(images):
    task = detection_task(
        lambda inputs: whiteness(inputs) * torch.nan, {"rank": images}, ["a", "b"], size=32
    )
    with pytest.raises(
        TaskError, match="Expected confidences that are numbers, got NaN for sample 0"
    ):
        scored(task)


@pytest.mark.skipif(
    not ASSETS, reason="SENSITIVITY_ASSETS is not set: YOLOX and the COCO images are not here"
)
def test_a_yolox_file_without_decoding_is_judged_through_onnxruntime():
    import onnxruntime

    folder = Path(ASSETS) / "coco" / "val"
    labels = coco_images(folder / "instances.json", folder / "images")
    decode = partial(decode_yolox, size=416)
    task = detection_task(
        None, {"rank": labels.images[:20]}, labels.names, size=416, batch=1, decode=decode
    )
    session = onnxruntime.InferenceSession(Path(ASSETS) / "weights" / "yolox_nano.onnx")
    scores = []
    for inputs, targets in task.data["rank"]:
        blue_first = inputs.numpy()[:, ::-1] * 255
        outputs = session.run(
            None, {session.get_inputs()[0].name: np.ascontiguousarray(blue_first)}
        )
        scores.append(task.score(outputs, targets))
    assert 0.3 < task.aggregate(np.concatenate(scores)) < 0.5


@pytest.fixture(scope="module")
def yolov8n():
    if not ASSETS:
        pytest.skip("SENSITIVITY_ASSETS is not set: YOLOv8n and the COCO images are not here")
    pytest.importorskip("ultralytics", reason="needs the package ultralytics")
    return load_script(EXAMPLE)


def test_yolov8n_scores_on_real_images_equal_pycocotools_on_the_annotation_file(yolov8n):
    """30 images, among them the grey-scale one, all with crowds and those without objects."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    labels = yolov8n.coco("val")
    special = [
        i
        for i in labels.images
        if i.crowd.any() or not len(i.boxes) or Image.open(i.file).mode == "L"
    ]
    chosen = (special + [image for image in labels.images if image not in special])[:30]
    assert {"L", "RGB"} == {Image.open(image.file).mode for image in chosen}
    task = detection_task(yolov8n.float_model(), {"rank": chosen}, labels.names, size=320)
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO(str(yolov8n.ASSETS / "coco" / "val" / "instances.json"))
    number = {image["file_name"]: image["id"] for image in ground.dataset["images"]}
    numbers = [number[image.file.name] for image in chosen]
    results, scores = [], []
    with torch.no_grad():
        for at, (inputs, targets) in enumerate(task.data["rank"]):
            outputs = task.model(inputs)
            scores.append(task.score(outputs, targets))
            found = task.score.detections(outputs, targets)
            for row, column in np.argwhere(found.confidences > 0).tolist():
                x1, y1, x2, y2 = found.boxes[row, column].tolist()
                results.append(
                    {
                        "image_id": numbers[at * 8 + row],
                        "category_id": sorted(ground.getCatIds())[found.classes[row, column]],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "score": float(found.confidences[row, column]),
                    }
                )
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(ground, ground.loadRes(results), "bbox")
        evaluation.params.imgIds = numbers
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    scores = np.concatenate(scores)
    of_sizes = [mean_average_precision(rows, 80) for rows in task.score.size_rows(scores).values()]
    assert of_sizes == pytest.approx(evaluation.stats[3:6].tolist(), abs=1e-6)
    assert task.aggregate(scores) == pytest.approx(evaluation.stats[0], abs=1e-6)
    scores = task.score.without_sizes(scores)
    assert mean_average_precision_50(scores, 80) == pytest.approx(evaluation.stats[1], abs=1e-6)
    assert 0.2 < task.aggregate(scores) < 0.6
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    reference = np.where(precision[:, 0] == -1, np.nan, precision.mean(axis=1))
    np.testing.assert_allclose(average_precision(scores, 80), reference, atol=1e-9)


def test_the_yolov8n_example_quantizes_convolutions_only_and_keeps_dfl_in_float(
    yolov8n, monkeypatch
):
    from sensitivity.quantizers.torch.modelopt import ModelOptModel

    monkeypatch.setattr(yolov8n, "CALIBRATION_IMAGES", 8)
    task = yolov8n.task(64)
    quantizers = ModelOptModel(task.model).quantizers
    assert len(quantizers) == 2 * 63
    assert {
        type(task.model.get_submodule(quantizer.layer)).__name__ for quantizer in quantizers
    } == {"QuantConv2d"}
    assert {(quantizer.role, quantizer.axis) for quantizer in quantizers} == {
        ("input", None),
        ("weight", 0),
    }
    assert not any(quantizer.problem or "dfl" in quantizer.name for quantizer in quantizers)
    files = [{image.file for image in batches.images} for batches in task.data.values()]
    assert [len(split) for split in files] == [50, 100, 50]
    assert len(set.union(*files)) == 200
