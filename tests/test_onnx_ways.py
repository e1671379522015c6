"""How the inputs and outputs of an ONNX file are understood: by options, or by the metadata that
ultralytics wrote into it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from support.yolo_models import NAMES, coco, yolo_folder

from sensitivity.commands import command_line, settings_as_text
from sensitivity.config import ScanSettings
from sensitivity.errors import TaskError
from sensitivity.onnx_task.reading import Reading, reading_of
from sensitivity.onnx_task.task import task_of
from sensitivity.onnx_task.task_file import written_task
from sensitivity.quantize.file import sized_file
from sensitivity.tasks.load import load_evaluator
from sensitivity.tasks.onnx_data import Calibration, as_model, boxes
from sensitivity.tasks.onnx_metadata import Exported, exported_by_ultralytics
from sensitivity.tasks.onnx_pixels import PixelChoices, Scale, channels

TOLD = {
    "task": "detect",
    "stride": "32",
    "imgsz": "[64, 96]",
    "names": repr(dict(enumerate(NAMES))),
}


@dataclass
class File:
    """An ONNX file that is read as far as needed to make a task."""

    shape: list[Any]
    output: list[Any]
    metadata: dict[str, str] = field(default_factory=dict)
    kind: str = "tensor(float)"
    path: Path = Path("m.onnx")

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="images", type=self.kind, shape=self.shape)]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="output0", type="tensor(float)", shape=self.output)]


YOLO = File(["batch", 3, "h", "w"], ["batch", 7, "anchors"], TOLD)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as a YOLO data set, and a COCO file of others."""
    folder = tmp_path_factory.mktemp("ways")
    yolo_folder(folder / "yolo")
    coco(folder / "coco")
    return folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three classes, each of one colour."""
    folder = tmp_path_factory.mktemp("classes")
    for number, name in enumerate(NAMES):
        (folder / name).mkdir()
        for at in range(4):
            Image.new("RGB", (40, 40), (10 * number, 100, 250)).save(folder / name / f"{at}.png")
    return folder


def truth(task: Any) -> dict[str, Any]:
    found = {}
    for split, batches in task.data.items():
        for image in batches.images:
            found[image.file.name] = (split, image.boxes.round(2).tolist(), image.classes.tolist())
    return found


@pytest.mark.parametrize("form", ["data.yaml", "", "images/val"])
def test_a_file_of_ultralytics_takes_a_yolo_data_set_in_any_form(data: Path, form: str) -> None:
    task = task_of(YOLO, data / "yolo" / form, Reading())
    assert task.score.names == NAMES
    assert truth(task) == truth(task_of(YOLO, data / "yolo" / "data.yaml", Reading()))
    assert sum(len(batches.images) for batches in task.data.values()) == 12
    inputs, _ = next(iter(task.data["rank"]))
    assert inputs.shape == (3, 3, 64, 96), "the size in the metadata, where the file's is open"
    assert 0 < inputs.max() <= 1


def test_the_train_part_of_a_data_yaml_calibrates(data: Path, tmp_path: Path) -> None:
    reading = Reading(calibration=Calibration(5))
    task = task_of(YOLO, data / "yolo" / "data.yaml", reading)
    assert {image.file.parent.name for image in task.data["calib"].images} == {"train"}
    assert len(task.data["calib"].images) == 5
    assert sum(len(task.data[split].images) for split in ("rank", "confirm", "holdout")) == 12
    same = (data / "yolo" / "data.yaml").read_text().replace("images/train", "images/val")
    (tmp_path / "same.yaml").write_text(same.replace("path: .", f"path: {data / 'yolo'}"))
    set_aside = task_of(YOLO, tmp_path / "same.yaml", reading)
    assert len(set_aside.data["calib"].images) == 2, "a fifth of what is measured"


def test_classes_have_the_numbers_that_the_model_gives_them(data: Path) -> None:
    found = boxes(data / "coco" / "instances.json", ("cow", "cat", "dog", "bird"))
    assert found.names == ("cow", "cat", "dog", "bird")
    assert [image.classes.tolist() for image in found.images[:3]] == [[1], [2], [0]]
    other = as_model(found, ("a", "b", "c", "d"), data)
    assert other.names == found.names, "as many, and called otherwise"
    with pytest.raises(TaskError, match=r"model has by its metadata \(2, first a, b\), got 4 with"):
        as_model(found, ("a", "b"), data)


def test_a_data_set_without_names_needs_them_from_the_file(data: Path) -> None:
    with pytest.raises(TaskError, match="Expected names of the classes in .*yolo/images/val"):
        boxes(data / "yolo" / "images" / "val", ())


POSE = {"task": "pose", "kpt_shape": "[17, 3]"}
CHOSEN = ["batch", 300, 6 + 51]


@pytest.mark.parametrize(("told", "output", "metric"), [
    ({"task": "segment"}, ["batch", 39, 126], "box and mask mAP50-95"),
    (POSE, ["batch", 58, 126], "box and key-point mAP50-95"),
    (POSE, CHOSEN, "box and key-point mAP50-95"), ({}, ["batch", 7, 126], "mAP50-95"),
    ({"task": "obb"}, ["batch", 8, 126], "rotated mAP50-95"),
])  # fmt: skip
def test_masks_and_key_points_are_judged_where_the_metadata_says_that_there_are_some(
    data: Path, told: dict[str, str], output: list[Any], metric: str
) -> None:
    task = task_of(File(["n", 3, 64, 96], output, TOLD | told), data / "coco", Reading())
    assert task.metric == metric
    inputs, targets = next(iter(task.data["rank"]))
    raw = np.zeros((len(inputs), *output[1:]), np.float32)
    scale, _, left, top, *_ = targets["geometry"].T
    box = np.stack([20 / scale + left, 20 / scale + top, 30 / scale, 30 / scale])
    place = (slice(None), 0) if output is CHOSEN else (slice(None), slice(None), 0)
    corners = np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])
    label = targets["classes"][:, 0]
    confidences = [np.full(len(label), 0.9), label] if output is CHOSEN else np.eye(3)[label].T
    points = [*box[:2], np.ones(len(label))] * 17 if "kpt_shape" in told else []
    weights = [np.ones(len(label))] * 32 if told.get("task") == "segment" else []
    angles = [np.zeros(len(label))] if told.get("task") == "obb" else []
    columns = [*(corners if output is CHOSEN else box), *confidences, *points, *weights, *angles]
    raw[place] = np.stack(columns).T
    protos = [np.ones((len(inputs), 32, 16, 24), np.float32)] if weights else []
    assert task.aggregate(task.score([raw, *protos], targets)) == pytest.approx(1, abs=0.006)
    raw[place] = 0
    assert task.aggregate(task.score([raw, *protos], targets)) == 0


def test_a_pose_file_without_its_number_of_points_is_one_sentence(data: Path) -> None:
    file = File(["n", 3, 64, 96], ["n", 58, 126], TOLD | {"task": "pose"})
    with pytest.raises(TaskError, match="m.onnx to say in its metadata how many key points it"):
        task_of(file, data / "coco", Reading())


def test_a_file_of_ultralytics_that_classifies_takes_pixels_as_they_are(classes: Path) -> None:
    file = File(["batch", 3, 32, 32], ["batch", 3], TOLD | {"task": "classify"})
    inputs, _ = next(iter(task_of(file, classes, Reading()).data["rank"]))
    assert sorted(set(inputs[:, 1:].ravel().tolist())) == pytest.approx([100 / 255, 250 / 255])


def test_a_folder_with_train_and_val_is_measured_on_val(tmp_path: Path) -> None:
    for part, count in (("train", 2), ("val", 6)):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for at in range(count):
                Image.new("RGB", (32, 32)).save(tmp_path / part / name / f"{at}.png")
    task = task_of(File(["n", 3, 32, 32], ["n", 2]), tmp_path, Reading())
    assert task.score.classes == 2
    assert sum(len(batches.images.files) for batches in task.data.values()) == 12


@pytest.mark.parametrize(("metadata", "labels", "said"), [
    ({"task": "depth"}, "yolo", "of ultralytics for detect, .*, got one for depth in its metada"),
    ({"task": "classify"}, "yolo", "with one folder of images per class for m.onnx, .* got label"),
    ({}, "classes", "with labelled boxes for m.onnx, by its metadata .* for detect, got one folde"),
])  # fmt: skip
def test_data_of_another_kind_than_the_metadata_asks_for_is_one_sentence(
    data: Path, classes: Path, metadata: dict[str, str], labels: str, said: str
) -> None:
    file = File(["n", 3, 64, 96], ["n", 7, 126], TOLD | metadata)
    with pytest.raises(TaskError, match=said):
        task_of(file, classes if labels == "classes" else data / "yolo", Reading())


@pytest.mark.parametrize("metadata", [
    {}, {"task": "detect"}, TOLD | {"names": "['a']"}, TOLD | {"names": "["}, {"names": "{0: 'a'}"},
])  # fmt: skip
def test_other_metadata_is_not_taken_for_that_of_ultralytics(metadata: dict[str, str]) -> None:
    assert exported_by_ultralytics(metadata, "m.onnx") == Exported()


MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 2 / 3)


@pytest.mark.parametrize(("choices", "expected"), [
    (PixelChoices(mean=MEAN), [-0.1, 100 / 255 - 0.2, 250 / 255 - 0.3]),
    (PixelChoices(mean=(0.5,) * 3, std=(0.5,) * 3), [-1, 100 / 127.5 - 1, 250 / 127.5 - 1]),
    (PixelChoices(mean=(123.5, 116.0, 104.0)), [-123.5, -16, 146]),
    (PixelChoices(std=(2.0, 4.0, 5.0)), [0, 25, 50]),
    (PixelChoices("bgr", mean=(104.0, 117.0, 124.0)), [146, -17, -124]),
    (PixelChoices(top=255.0, mean=MEAN, std=STD), [-0.2, 399.2, 374.55]),
    (PixelChoices("bgr", 2.0), [500 / 255, 200 / 255, 0]),
])  # fmt: skip
def test_pixels_are_scaled_and_moved_as_asked(
    classes: Path, choices: PixelChoices, expected: list[float]
) -> None:
    file = File(["batch", 3, 32, 32], ["batch", 3])
    task = task_of(file, classes, Reading(pixels=choices))
    inputs = np.concatenate([batch for split in task.data.values() for batch, _ in split])
    at = int(np.argmin(inputs[:, 2 if choices.colours == "bgr" else 0, 0, 0]))  # of the first class
    assert inputs[at, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("codes", "expected"), [
    ("int8 0.00392157 -128", [0, 100 / 255, 250 / 255]),
    ("uint8 0.0078125 128", [-1, 100 / 127.5 - 1, 250 / 127.5 - 1]),
    ("int8 0.0078431 -1", [-1, 100 / 127.5 - 1, 250 / 127.5 - 1]),
    ("uint8 1.0 0", [0, 100, 250]),
    # none of the usual: as ImageNet models have it
    ("int8 0.0186 -14", [-2.1179, -0.2850, 2.5529]),
    ("int16 0.0000305 0", [-2.1179, -0.2850, 2.5529]),
])  # fmt: skip
def test_levels_of_a_quantized_input_tell_its_pixels(
    classes: Path, codes: str, expected: list[float]
) -> None:
    file = File(["batch", 32, 32, 3], ["batch", 3], {"codes of images": codes})
    task = task_of(file, classes, Reading())
    inputs = np.concatenate([batch for split in task.data.values() for batch, _ in split])
    at = int(np.argmin(inputs[:, 0, 0, 0]))  # of the first class
    assert inputs[at, 0, 0].tolist() == pytest.approx(expected, abs=1e-3)
    task = task_of(file, classes, Reading(pixels=PixelChoices(top=255.0)))
    inputs, _ = next(iter(task.data["rank"]))
    assert inputs.max() == 250, "what is said counts"


def test_a_detector_takes_a_mean_too(data: Path) -> None:
    plain, moved = (
        next(iter(task_of(YOLO, data / "yolo", Reading(pixels=choices)).data["rank"]))[0]
        for choices in (PixelChoices(), PixelChoices(mean=MEAN, std=STD))
    )
    mean, std = (np.array(each)[:, None, None] for each in (MEAN, STD))
    np.testing.assert_allclose(moved, (plain - mean) / std, atol=1e-5)


def test_no_mean_is_taken_off_whole_numbers(classes: Path) -> None:
    file = File(["batch", 32, 32, 3], ["batch", 3], kind="tensor(uint8)")
    with pytest.raises(TaskError, match="no --mean and no --std for a file that takes uint8"):
        task_of(file, classes, Reading(pixels=PixelChoices(mean=MEAN)))


@pytest.mark.parametrize("given", ["", "a", "1,2", "1,2,3,4", "nan", "1;2;3"])
def test_a_mean_that_is_none_is_one_sentence(given: str) -> None:
    with pytest.raises(
        TaskError, match=f"Expected --mean to be one number or three .* got {given}"
    ):
        channels("--mean", given)
    with pytest.raises(TaskError, match="Expected --std to be one number above 0 or three"):
        channels("--std", "1,0,1")


def test_a_task_file_holds_what_was_asked(data: Path, tmp_path: Path) -> None:
    settings = ScanSettings(
        task="m.onnx", data=data / "yolo", mean="0.5", std="1,2,3", imgsz=(64, 96), colours="bgr"
    )
    reading = reading_of(settings, Calibration(5))
    assert reading.pixels == PixelChoices("bgr", None, (0.5, 0.5, 0.5), (1.0, 2.0, 3.0))
    written_task(settings, tmp_path)
    text = (tmp_path / "task.py").read_text()
    for line in ("imgsz=(64, 96)", "colours='bgr'", "mean=(0.5, 0.5, 0.5)", "std=(1.0, 2.0, 3.0)"):
        assert f"        {line},\n" in text


@pytest.mark.parametrize(("more", "size"), [
    ({}, [64, 96]), ({"imgsz": 32}, [32, 32]), ({"imgsz": (48, 32)}, [48, 32]),
    ({"shape": ("n,3,16,16",)}, [16, 16]),
])  # fmt: skip
def test_open_sides_of_a_float_file_get_a_size(
    tmp_path: Path, more: dict[str, Any], size: list[int]
) -> None:
    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "w"], ["y"], name="conv")], "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["b", 3, "h", "w0"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 2, "h", "w0"])], [weight],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, TOLD)
    onnx.save(model, tmp_path / "m.onnx")
    file = sized_file(ScanSettings(task=str(tmp_path / "m.onnx"), **more))
    assert file.get_inputs()[0].shape[1:] == [3, *size]
    assert file.get_outputs()[0].shape[2:] == size
    assert isinstance(file.get_inputs()[0].shape[0], str), "the batch stays open"


def test_the_usual_scale_of_a_bgr_classifier_is_that_of_its_colours() -> None:
    assert Scale(1.0, MEAN, STD).ordered("bgr") == Scale(1.0, MEAN[::-1], STD[::-1])


def test_an_annotation_file_of_coco_needs_no_names(data: Path) -> None:
    content = json.loads((data / "coco" / "instances.json").read_text())
    assert boxes(data / "coco", ()).names == tuple(one["name"] for one in content["categories"])


EVALUATOR = """
def near(outputs, targets):
    return 1 / (1 + ((outputs - targets["goal"]) ** 2).mean(1)) * targets["weight"]

def boxes_seen(outputs, targets):
    return (targets["classes"] >= 0).sum(1)

other = 3
"""


@pytest.fixture
def evaluator(tmp_path: Path) -> Path:
    (tmp_path / "my_eval.py").write_text(EVALUATOR)
    return tmp_path / "my_eval.py"


def test_an_own_metric_judges_arrays_of_any_shape(tmp_path: Path, evaluator: Path) -> None:
    goal = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.savez(tmp_path / "d.npz", x=np.zeros((20, 3, 4, 4)), goal=goal, weight=np.arange(20.0))
    reading = Reading(evaluator=load_evaluator(f"{evaluator}:near"))
    task = task_of(File(["n", 3, 4, 4], ["n", 3]), tmp_path / "d.npz", reading)
    inputs, targets = next(iter(task.data["rank"]))
    assert (task.metric, inputs.shape, targets["goal"].shape) == ("near", (10, 3, 4, 4), (10, 3))
    np.testing.assert_allclose(task.score(targets["goal"], targets), targets["weight"])
    assert task.aggregate(np.array([1.0, 2.0])) == 1.5
    np.savez(tmp_path / "d.npz", x=np.zeros((20, 3, 4, 4)))
    with pytest.raises(
        TaskError, match="and what --evaluator compares outputs with, such as y, as many"
    ):
        task_of(File(["n", 3, 4, 4], ["n", 3]), tmp_path / "d.npz", reading)
    np.savez(tmp_path / "d.npz", x=np.zeros((20, 3, 4, 4)), y=goal[:, None])
    y = next(
        iter(task_of(File(["n", 3, 4, 4], ["n", 3]), tmp_path / "d.npz", reading).data["rank"])
    )
    assert y[1].shape == (10, 1, 3)


def test_an_own_metric_judges_a_detector_whose_outputs_nobody_knows(
    data: Path, evaluator: Path
) -> None:
    reading = Reading(evaluator=load_evaluator(f"{evaluator}:boxes_seen"))
    task = task_of(File(["n", 3, 64, 96], ["n", 11]), data / "coco" / "instances.json", reading)
    inputs, targets = next(iter(task.data["rank"]))
    assert task.score(None, targets).tolist() == [1.0] * len(inputs)


def test_an_evaluator_that_is_none_or_was_changed_is_one_sentence(
    data: Path, evaluator: Path, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=r"to define a function nea\(\), .* Close names: near"):
        load_evaluator(f"{evaluator}:nea")
    with pytest.raises(TaskError, match="a Python file at .*none.py, got nothing there"):
        load_evaluator(str(tmp_path / "none.py"))
    settings = ScanSettings(task="m.onnx", data=data / "yolo", evaluator=f"{evaluator}:near")
    written_task(settings, tmp_path)
    found = load_evaluator(f"{evaluator}:near")
    text = (tmp_path / "task.py").read_text()
    assert f"evaluator={found.place!r},\n        evaluator_code={found.code!r},\n" in text
    evaluator.write_text("# a comment changes nothing\n" + EVALUATOR)
    assert load_evaluator(f"{evaluator}:near", found.code).code == found.code
    evaluator.write_text(EVALUATOR.replace("mean(1)", "max(1)"))
    with pytest.raises(TaskError, match="what judged this run when it began, got a file that was"):
        load_evaluator(f"{evaluator}:near", found.code)


def test_a_size_of_two_sides_is_said_in_one_word() -> None:
    given = ScanSettings(task="m.onnx", imgsz=(48, 192), shape=("x=1,3", "y=2"))
    assert settings_as_text(given)["imgsz"] == "48,192"
    assert settings_as_text(given)["shape"] == "x=1,3 y=2"
    assert command_line("scan", given) == (
        "sensitivity scan m.onnx --imgsz 48,192 --shape x=1,3 --shape y=2"
    )
