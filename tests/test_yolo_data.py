"""Labelled images of a YOLO user in each form, and the errors for faulty ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.yolo_models import NAMES, coco, images, save, yolo, yolo_folder

from sensitivity.errors import TaskError
from sensitivity.onnx_task.reading import Reading
from sensitivity.onnx_task.task import task_of
from sensitivity.tasks.detection import ImageBatches
from sensitivity.tasks.detection_labels import LabelForm
from sensitivity.tasks.yolo_data import (
    calibration_files,
    label_file,
    labelled,
    yaml_for_validator,
)
from sensitivity.workflows import yolo as workflow


def boxes_of(found) -> list[list[float]]:
    return [image.boxes.round(3).tolist() for image in found.images]


def test_a_folder_a_list_and_a_data_yaml_of_the_same_images_give_the_same_boxes(tmp_path):
    yaml = yolo_folder(tmp_path, count=4)
    by_yaml = labelled(yaml, NAMES, split="val")
    listed = sorted((tmp_path / "images" / "val").iterdir())
    (tmp_path / "val.txt").write_text("\n".join(f"./images/val/{file.name}" for file in listed))
    (tmp_path / "list.yaml").write_text("val: val.txt\nnc: 3\n")
    by_list = labelled(tmp_path / "list.yaml", NAMES, split="val")
    assert boxes_of(by_yaml) == boxes_of(by_list)
    assert [image.classes.tolist() for image in by_yaml.images] == [[0], [1], [2], [0]]
    other = tmp_path / "other"
    other.mkdir()
    for kind in ("images", "labels"):
        (other / kind).symlink_to(tmp_path / kind / "val")
    assert boxes_of(labelled(other, NAMES, split="val")) == boxes_of(by_yaml)


@pytest.mark.parametrize(
    ("declared", "names"),
    [
        ("[cat, dog, bird]", ("cat", "dog", "bird")),
        ("{2: bird, 0: cat, 1: dog}", ("cat", "dog", "bird")),
        ("{'2': bird, '0': cat, '1': dog}", ("cat", "dog", "bird")),
        (None, ("0", "1", "2")),
    ],
    ids=["list", "numbered", "numbered-as-text", "none"],
)
def test_classes_are_called_as_the_data_set_calls_them_where_weights_have_only_numbers(
    tmp_path, declared, names
):
    yolo_folder(tmp_path, count=3)
    (tmp_path / "own.yaml").write_text(
        "val: images/val\n" + (f"names: {declared}\n" if declared else "nc: 3\n")
    )
    assert labelled(tmp_path / "own.yaml", ("0", "1", "2"), split="val").names == names
    assert labelled(coco(tmp_path / "coco", 3), ("0", "1", "2"), split="val").names == tuple(NAMES)


def test_images_of_odd_sizes_and_in_grey_are_read_as_rgb_squares(tmp_path):
    found = labelled(coco(tmp_path, 6), NAMES, split="val")
    inputs, targets = next(iter(ImageBatches(found.images, size=32, batch=6)))
    assert inputs.shape == (6, 3, 32, 32)
    assert targets["geometry"][:, 4:].tolist()[:2] == [[48, 64], [96, 50]]
    grey = inputs[2].numpy()
    assert np.array_equal(grey[0], grey[1])


def test_the_images_of_a_coco_file_may_lie_elsewhere(tmp_path):
    annotations = coco(tmp_path, 3)
    (tmp_path / "images").rename(tmp_path / "pictures")
    assert len(labelled(annotations, NAMES, split="val", folder=tmp_path / "pictures").images) == 3
    with pytest.raises(TaskError, match="3 missing"):
        labelled(annotations, NAMES, split="val")


def test_labels_lie_where_ultralytics_looks_for_them():
    data_utils = pytest.importorskip("ultralytics.data.utils")
    for path in ("/d/images/val/a.b.jpg", "/d/images/x/images/7.png", "/d/pictures/7.png"):
        assert [label_file(Path(path)).as_posix()] == data_utils.img2label_paths([path])


@pytest.mark.parametrize(
    ("content", "split", "message"),
    [
        ("val: images/val\nnames: [cat, "
         "dog]\n", "val", r"3 classes of the model, got 2 \(cat, dog\)"),
        ("val: images/val\nnames: {cat: 0}\n", "val", "a name for each class number, got 'cat'"),
        ("val: images/val\nnc: 4\n", "val", "3 classes of the model, got 4"),
        ("path: nowhere\nval: images/val\nnc: "
         "3\n", "val", "to be at .*nowhere/images/val, got nothing there; correct `path`"),
        ("train: images/train\nval: images/val\nnc: "
         "3\n", "test", "name the images of 'test', got train, val only"),
        ("- a\n- b\n", "val", "to hold path, train, val and names, got list"),
        ("val: [\n", "val", "Expected YAML in"),
        ("val: empty\nnc: 3\n", "val", "Expected images for 'val' .* got none in empty"),
        ("val: list.txt\nnc: "
         "3\n", "val", r"1 images listed in .*list\.txt, got 1 missing, first .*gone\.jpg"),
    ],
)  # fmt: skip
def test_a_data_yaml_that_is_not_as_it_should_be_is_refused_in_one_sentence(
    tmp_path, content, split, message
):
    yolo_folder(tmp_path, count=3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("gone.jpg\n")
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(TaskError, match=message):
        labelled(tmp_path / "bad.yaml", NAMES, split=split)


@pytest.fixture
def poses(tmp_path):
    """A data YAML with two key points in each image, and a way to add lines to it."""

    def declared(more: str) -> Path:
        file = yolo_folder(tmp_path, count=8)
        for text in (tmp_path / "labels").rglob("*.txt"):
            text.write_text("0 0.4 0.4 0.5 0.5 0.3 0.3 2 0.5 0.5 2\n")
        file.write_text(f"{file.read_text()}\nkpt_shape: [2, 3]\n{more}\n")
        return file

    return declared


TWO_POINTS = LabelForm("keypoints", 2, 3)
SPREADS = "kpt_oks_sigmas: [0.05, 0.1]"


def test_spreads_of_key_points_are_those_that_the_data_yaml_declares(poses):
    assert labelled(poses(SPREADS), NAMES, split="val", form=TWO_POINTS).sigmas == (0.05, 0.1)
    nested = poses("kpt_oks_sigmas: [[0.05], [0.1]]")
    assert labelled(nested, NAMES, split="val", form=TWO_POINTS).sigmas == (0.05, 0.1)
    assert labelled(poses(""), NAMES, split="val", form=TWO_POINTS).sigmas == ()
    assert labelled(poses("kpt_oks_sigmas: [wide]"), NAMES, split="val").sigmas == ()


@pytest.mark.parametrize("given", ["[0.05]", "[0.05, 0]", "[wide, narrow]", "[0.1, 0.1, 0.1]"])
def test_spreads_that_do_not_fit_the_key_points_are_reported(poses, given):
    file = poses(f"kpt_oks_sigmas: {given}")
    told = r"Expected kpt_oks_sigmas in .*data\.yaml to be 2 positive numbers, .*; correct it"
    with pytest.raises(TaskError, match=told):
        labelled(file, NAMES, split="val", form=TWO_POINTS)


def test_declared_spreads_judge_an_onnx_file_and_a_model_of_ultralytics(poses, monkeypatch):
    file = poses(SPREADS)
    (taken,), (given,) = ([SimpleNamespace(name="x", type="tensor(float)", shape=shape)]
                          for shape in ([1, 3, 64, 64], [1, 13, 84]))  # fmt: skip
    metadata = {"task": "pose", "stride": "32", "names": str(dict(enumerate(NAMES)))}
    exported = SimpleNamespace(
        path=Path("pose.onnx"), metadata=metadata | {"kpt_shape": "[2, 3]"},
        get_inputs=lambda: [taken], get_outputs=lambda: [given],
    )  # fmt: skip
    assert task_of(exported, file, Reading()).score.part.sigmas == (0.05, 0.1)
    model = yolo("yolov8n-pose.yaml", "PoseModel", data_kpt_shape=[2, 3])
    monkeypatch.setattr(workflow, "quantized", lambda model, *_, **__: model)
    weights = save(model, file.with_name("pose.pt"))
    found = workflow.task(weights, file, imgsz=64, batch=2)
    assert found.score.part.sigmas == (0.05, 0.1)


def test_missing_data_and_unknown_forms_are_reported(tmp_path):
    (tmp_path / "data.csv").write_text("")
    with pytest.raises(TaskError, match="Expected a data YAML at .*none.yaml, got nothing there"):
        labelled(tmp_path / "none.yaml", NAMES, split="val")
    with pytest.raises(TaskError, match="data.csv: another kind of file"):
        labelled(tmp_path / "data.csv", NAMES, split="val")
    with pytest.raises(TaskError, match=r"data \(from .*: nothing there|data: nothing there"):
        labelled(tmp_path / "data", NAMES, split="val")


def test_calibration_images_need_no_labels(tmp_path):
    images(tmp_path / "some" / "deep", 3)
    assert len(calibration_files(tmp_path / "some")) == 3
    assert len(calibration_files(coco(tmp_path / "coco", 5))) == 5
    (tmp_path / "none").mkdir()
    with pytest.raises(TaskError, match="Expected images to calibrate with at .*none, got none"):
        calibration_files(tmp_path / "none")


def test_a_data_set_written_for_the_validator_holds_the_same_boxes(tmp_path):
    found = labelled(coco(tmp_path / "coco", 4), NAMES, split="val")
    file = yaml_for_validator(
        tmp_path / "own", {"rank": found.images[:3], "confirm": found.images[3:]}, NAMES
    )
    again = labelled(file, NAMES, split="rank")
    for one, other in zip(found.images[:3], again.images, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-4)
        assert np.array_equal(one.classes, other.classes)
