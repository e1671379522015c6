"""`sensitivity yolo`: from a weights file of ultralytics and labelled images to a task, and to a
whole run."""

from __future__ import annotations

import os
import pickle
import re
import runpy
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.yolo_models import NAMES, coco, images, save, yolo, yolo_folder, yolov8n

from sensitivity.cli import lazy
from sensitivity.cli.main import group, main
from sensitivity.config import RunSettings, YoloSettings
from sensitivity.errors import MissingPackage, RunDirError, TaskError
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.steps.report import report_data
from sensitivity.tasks.load import load_task
from sensitivity.workflows import yolo as workflow
from sensitivity.workflows import yolo_quantize
from sensitivity.workflows.yolo_weights import load_yolo

ASSETS = os.environ.get("SENSITIVITY_ASSETS")
COCO = Path(ASSETS or "") / "coco"
EXAMPLES = Path(__file__).parents[1] / "examples"
SIZE = {"imgsz": 64, "batch": 2, "calib_images": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("yolo")
    save(yolo(), folder / "small.pt")
    coco(folder)
    return folder


@pytest.fixture(scope="module")
def task(folder):
    return workflow.task(folder / "small.pt", folder / "instances.json", **SIZE)


def layers_of(task) -> set[str]:
    return {quantizer.layer for quantizer in ModelOptModel(task.model).quantizers}


def test_every_convolution_but_that_of_dfl_is_quantized_weights_per_channel_and_inputs_per_tensor(
    task,
):
    quantizers = ModelOptModel(task.model).quantizers
    convolutions = {
        name for name, module in task.model.named_modules() if isinstance(module, torch.nn.Conv2d)
    }
    assert (
        {name for name in convolutions if "dfl" in name}
        == convolutions - layers_of(task)
        == {"model.22.dfl.conv"}
    )
    assert {(quantizer.role, quantizer.axis, quantizer.bits) for quantizer in quantizers} == {
        ("weight", 0, 8), ("input", None, 8)
    }  # fmt: skip


def test_dfl_is_quantized_where_it_is_asked_for(folder):
    task = workflow.task(folder / "small.pt", folder / "instances.json", quantize_dfl=True, **SIZE)
    assert "model.22.dfl.conv" in layers_of(task)


def test_batch_norm_is_folded_and_the_free_batch_axis_does_not_change_the_result(task):
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in task.model.modules())
    inputs, _ = next(iter(task.data["rank"]))
    source = ModelOptModel(task.model)
    # In float: sums in another order may fall to the other side of a rounding step, and random
    # weights make much of it.
    with torch.no_grad(), source.disabled([quantizer.name for quantizer in source.quantizers]):
        whole, alone = task.model(inputs), task.model(inputs[:1])
    assert whole.shape == (2, 4 + len(NAMES), 84)
    torch.testing.assert_close(whole[:1], alone, rtol=1e-3, atol=1e-3)


def test_a_shortcut_is_quantized_by_the_quantizer_of_the_convolution_that_reads_the_same_tensor(
    task,
):
    block = task.model.get_submodule("model.2.m.0")
    assert block.residual_quantizer is block.cv1.conv.input_quantizer
    x = torch.randn(1, block.cv1.conv.in_channels, 8, 8)
    with torch.no_grad():
        expected = block.cv1.conv.input_quantizer(x) + block.cv2(block.cv1(x))
        assert torch.equal(block(x), expected)


def test_splits_are_disjoint_and_a_fifth_of_the_images_is_set_aside_where_nothing_else_calibrates(
    folder,
):
    task = workflow.task(folder / "small.pt", folder / "instances.json", **SIZE)
    files = [
        image.file for split in ("rank", "confirm", "holdout") for image in task.data[split].images
    ]
    assert len(files) == len(set(files)) == 8  # of 12: 2 calibrate, and shares are rounded down


def test_limit_draws_some_of_the_images(folder, tmp_path):
    calib = images(tmp_path / "calib", 3)[0].parent
    task = workflow.task(
        folder / "small.pt", folder / "instances.json", calib=calib, limit=8, **SIZE
    )
    assert [len(task.data[split].images) for split in ("rank", "confirm", "holdout")] == [2, 4, 2]


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_histogram_calibration_narrows_ranges_of_inputs_and_leaves_those_of_weights(
    folder, task, method, monkeypatch
):
    monkeypatch.setattr(yolo_quantize, "STRIDE", 64)
    other = workflow.task(
        folder / "small.pt", folder / "instances.json", calib_method=method, **SIZE
    )
    largest, narrowed = dict(task.model.named_buffers()), dict(other.model.named_buffers())
    inputs = [name for name in largest if name.endswith("input_quantizer._amax")]
    assert inputs
    assert np.mean([float(narrowed[name] < largest[name]) for name in inputs]) > 0.3
    assert all(
        torch.equal(largest[name], narrowed[name])
        for name in largest
        if "weight_quantizer._amax" in name
    )


def test_raw_output_decodes_to_the_same_boxes_as_the_models_own_decoding(folder):
    scores = []
    for output in ("decoded", "raw"):
        task = workflow.task(folder / "small.pt", folder / "instances.json", output=output, **SIZE)
        inputs, _ = next(iter(task.data["rank"]))
        with torch.no_grad():
            scores.append(task.score.decode(task.model(inputs)))
    for decoded, raw in zip(*scores, strict=True):
        np.testing.assert_allclose(raw, decoded, rtol=1e-3, atol=2e-3)


def test_a_data_yaml_calibrates_with_its_train_part(folder, tmp_path):
    data = yolo_folder(tmp_path, count=6)
    task = workflow.task(folder / "small.pt", data, **SIZE)
    files = [
        image.file for split in ("rank", "confirm", "holdout") for image in task.data[split].images
    ]
    assert {file.parent.name for file in files} == {"val"}
    assert len(files) == 5  # half, a quarter, a quarter: shares are rounded down
    assert [image.classes.tolist() for image in task.data["rank"].images] != [[]] * 3


@pytest.mark.parametrize(
    ("config", "kind", "metric"),
    [
        ("yolov8n-seg.yaml", "SegmentationModel", "box and mask mAP50-95"),
        ("yolov8n-pose.yaml", "PoseModel", "box and key-point mAP50-95"),
        ("yolov8n-obb.yaml", "OBBModel", "rotated mAP50-95"),
    ],
)
def test_segmentation_and_pose_models_are_judged_by_all_that_they_give(
    tmp_path, folder, config, kind, metric
):
    weights = save(yolo(config, kind), tmp_path / f"{kind}.pt")
    task = workflow.task(weights, folder / "instances.json", **SIZE)
    assert task.metric == metric
    inputs, targets = next(iter(task.data["rank"]))
    with torch.no_grad():
        outputs = task.model(inputs)
    scores = task.score(outputs, targets)
    detections = outputs[0] if kind == "SegmentationModel" else outputs
    detections[:, 4 + len(NAMES) :] *= -1  # boxes and confidences stay
    moved = task.score(outputs, targets)
    assert np.array_equal(scores[:, :300], moved[:, :300])
    assert not np.array_equal(scores, moved)


def test_classifiers_are_judged_by_top_1_on_class_folders(tmp_path):
    for name in NAMES:
        images(tmp_path / "data" / "val" / name, 8, sizes=((70, 64), (64, 80)))
    weights = save(yolo("yolov8n-cls.yaml", "ClassificationModel"), tmp_path / "cls.pt")
    task = workflow.task(weights, tmp_path / "data", **SIZE)
    inputs, targets = next(iter(task.data["rank"]))
    assert task.metric == "top-1"
    assert float(inputs.max()) <= 1.0
    with torch.no_grad():
        assert task.score(task.model(inputs), targets).shape == (2,)


class Stranger(torch.nn.Module):
    pass


def not_a_pickle(folder: Path) -> Path:
    (folder / "noise.pt").write_bytes(b"no weights")
    return folder / "noise.pt"


def a_state(folder: Path) -> Path:
    torch.save(OrderedDict(a=torch.zeros(2), b=torch.zeros(3)), folder / "state.pt")
    return folder / "state.pt"


def without_classes(folder: Path) -> Path:
    model = yolo("yolov8n-worldv2.yaml", "WorldModel")
    model.names = dict(enumerate("abcd"))
    return save(model, folder / "world.pt")


def of_another_package(folder: Path) -> Path:
    torch.save({"model": Stranger()}, folder / "stranger.pt")
    return folder / "stranger.pt"


def of_yolov5(folder: Path) -> Path:
    module = types.ModuleType("models.yolo")
    sys.modules |= {"models": types.ModuleType("models"), "models.yolo": module}
    try:
        module.Model = type("Model", (torch.nn.Module,), {"__module__": "models.yolo"})
        torch.save({"model": module.Model()}, folder / "v5.pt")
    finally:
        del sys.modules["models"], sys.modules["models.yolo"]
    return folder / "v5.pt"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda folder: folder / "none.pt", r"ending in \.pt, at .*none\.pt, got nothing there "
                                            r"\(nothing is downloaded\)"),
        (lambda folder: save(yolo("yolo26n-depth.yaml", "DepthModel"), folder / "depth.pt"),
         "finds rotated boxes or classifies, got depth.pt with a head of class Depth;"),
        (without_classes, "whose classes are set, got world.pt with 4 names and the texts of 3; "),
        (lambda folder: save(yolo(ch=1), folder / "grey.pt"), "whose input has 1 channels"),
        (not_a_pickle, "noise.pt, got a file that torch has not saved"),
        (a_state, "got a state of 2 tensors without the model"),
        (of_another_package, r"got .*test_yolo\.Stranger; add --trust-weights"),
        (of_yolov5, "of YOLOv5 or YOLOv7 from its own repository"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_used_are_refused_in_one_sentence(tmp_path, weights, message):
    with pytest.raises(TaskError, match=message):
        load_yolo(weights(tmp_path))


@pytest.mark.parametrize("name", ["yolov5n.pt", "it's mine.pt"])
def test_a_file_is_read_whatever_ultralytics_makes_of_its_name(folder, tmp_path, name):
    (tmp_path / name).write_bytes((folder / "small.pt").read_bytes())
    assert load_yolo(tmp_path / name).names == NAMES


def test_an_onnx_file_is_sent_to_the_other_verb(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(
        TaskError, match=r"got a \.onnx; an ONNX file is analysed by `sensitivity run`"
    ):
        load_yolo(tmp_path / "model.onnx")


def test_code_in_a_weights_file_runs_only_where_it_is_trusted(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"model": yolo(), "extra": Evil()}, tmp_path / "evil.pt", pickle_module=pickle)
    with pytest.raises(TaskError, match="add --trust-weights to run the code in it"):
        load_yolo(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
    load_yolo(tmp_path / "evil.pt", trust=True)
    assert (tmp_path / "ran").exists()


def test_a_one_to_one_head_is_asked_of_models_that_have_one_only(folder):
    with pytest.raises(
        TaskError, match=r"one-to-one head \(v10, 26\) for --end2end, got small\.pt without one"
    ):
        load_yolo(folder / "small.pt", end2end=True)


def test_without_ultralytics_its_install_line_is_reported(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(
        MissingPackage, match=r"Expected ultralytics .* pip install 'layer-sensitivity\[yolo\]'"
    ):
        load_yolo(folder / "small.pt")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"imgsz": 100}, "Expected --imgsz to be a multiple of 32, .* got 100; use 96"),
        ({"imgsz": (64, 100)}, "Expected --imgsz to be a multiple of 32, .* got 64x100; use 64x96"),
        (
            {"imgsz": (64, 96), "evaluator": "ultralytics"},
            "Expected a square --imgsz for --evaluator .* got 64x96",
        ),
        ({"batch": 0}, "Expected --batch to be at least 1, got 0"),
        ({"calib_images": -1}, "Expected --calib-images to be at least 1, got -1"),
        (
            {"limit": 3},
            "Expected at least 5 images for calib, rank, confirm and holdout, got 3; .* higher "
            "--limit",
        ),
        (
            {"output": "raw", "evaluator": "ultralytics"},
            "for --evaluator ultralytics, got --output raw",
        ),
        (
            {"calib": "/nowhere"},
            "Expected --calib to be a data YAML, .* got /nowhere: nothing there",
        ),
    ],
)
def test_choices_that_cannot_be_served_are_reported(folder, choices, message):
    with pytest.raises(TaskError, match=message):
        workflow.task(folder / "small.pt", folder / "instances.json", **SIZE | choices)


@pytest.mark.parametrize("output", ["decoded", "raw"])
def test_a_rectangular_input_is_height_and_width(folder, output):
    made = workflow.task(
        folder / "small.pt",
        folder / "instances.json",
        **SIZE | {"imgsz": (64, 96), "output": output},
    )
    inputs, targets = next(iter(made.data["rank"]))
    assert inputs.shape == (2, 3, 64, 96)
    with torch.inference_mode():
        outputs = made.model(inputs)
    boxes, confidences = made.score.decode(outputs)
    assert boxes.shape[1] == confidences.shape[2] == 8 * 12 + 4 * 6 + 2 * 3
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    cells = [(x + 0.5, y + 0.5) for y in range(8) for x in range(12)]
    assert np.abs(centres[0, : len(cells)] / 8 - cells).max() <= 8, (
        "half of the 16 bins around each cell"
    )
    assert made.score(outputs, targets).shape[0] == 2


def test_the_task_file_of_a_rectangular_input_says_so(folder):
    settings = YoloSettings(
        weights=folder / "small.pt", data=folder / "instances.json", imgsz=(64, 96)
    )
    assert "imgsz=(64, 96)," in workflow.task_file(settings)


def test_a_torchvision_that_does_not_import_is_reported(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        TaskError,
        match="Expected torchvision to import for --evaluator ultralytics, got ModuleNotFound",
    ):
        workflow.task(
            folder / "small.pt", folder / "instances.json", evaluator="ultralytics", **SIZE
        )


def test_the_task_file_holds_what_was_chosen_and_gives_the_same_task(folder, tmp_path, task):
    settings = YoloSettings(
        weights=folder / "small.pt", data=folder / "instances.json", out=tmp_path / "run", **SIZE
    )
    own = workflow.prepare(settings)
    text = (tmp_path / "run" / "task.py").read_text()
    assert "imgsz=64" in text
    assert "calib_method" not in text
    loaded = load_task(own.task)
    assert ModelOptModel(loaded.model).fingerprint() == ModelOptModel(task.model).fingerprint()


def test_options_of_the_other_steps_are_passed_on(tmp_path):
    settings = YoloSettings(
        weights=Path("a.pt"),
        data=Path("b.yaml"),
        out=tmp_path,
        max_drop="0.3pt",
        skip=("head",),
        unit="group",
        rounds=7,
    )
    own = workflow.prepare(settings)
    assert (own.max_drop, own.skip, own.unit, own.rounds, own.out) == (
        "0.3pt",
        ("head",),
        "group",
        7,
        tmp_path,
    )
    plain = RunSettings(
        task=own.task, out=tmp_path, max_drop="0.3pt", skip=("head",), unit="group", rounds=7
    )
    assert own == plain  # what the task file holds is not passed on under the same name


def test_a_changed_task_file_is_kept_on_resume_and_a_run_of_others_is_not_touched(tmp_path):
    settings = YoloSettings(weights=Path("a.pt"), data=Path("b.yaml"), out=tmp_path)
    workflow.prepare(settings)
    (tmp_path / "task.py").write_text("# mine")
    (tmp_path / "journal.jsonl").write_text("{}\n{}\n")
    with pytest.raises(RunDirError, match="journal of an earlier one"):
        workflow.prepare(settings)
    workflow.prepare(
        YoloSettings(weights=Path("a.pt"), data=Path("b.yaml"), out=tmp_path, resume=True)
    )
    assert (tmp_path / "task.py").read_text() == "# mine"


@pytest.mark.parametrize("resume", [False, True])
def test_a_dry_run_forecasts_and_writes_nothing_into_the_run_directory(
    resume, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    shown = []
    monkeypatch.setattr(lazy.api, "forecast", lambda own: Path(own.task[:-5]).read_text())
    monkeypatch.setattr(lazy.forecast, "show_forecast", shown.append)
    words = ["--weights", "a.pt", "--data", "b.yaml", "--out", str(out), "--dry-run"]
    with pytest.raises(SystemExit) as ended:
        main(["yolo", "run", *words, *["--resume"] * resume])
    assert not ended.value.code
    assert ["a.pt" in text for text in shown] == [True]
    assert not out.exists()


def test_a_dry_run_of_a_run_to_continue_takes_its_task_file(tmp_path):
    (tmp_path / "task.py").write_text("# mine")
    settings = YoloSettings(weights=Path("a.pt"), data=Path("b.yaml"), out=tmp_path, resume=True)
    own = workflow.prepare(settings, tmp_path / "elsewhere")
    assert own.task == f"{tmp_path / 'task.py'}:task"


def test_help_names_the_families_and_the_way_for_others():
    told = CliRunner().invoke(group, ["yolo", "--help"]).output
    assert all(
        word in " ".join(told.split()) for word in ("v5u", "26", "YOLOv5, v6 and v7", "ONNX", "run")
    )


def test_a_missing_option_is_reported(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["yolo", "run", "--data", "x.yaml"])
    assert stopped.value.code == 1
    assert "Missing option '--weights'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def yolov8n_run(tmp_path_factory):
    """The run directory of the whole job on a few images."""
    if not ASSETS:
        pytest.skip("SENSITIVITY_ASSETS is not set: YOLOv8n and the COCO images are not here")
    folder = tmp_path_factory.mktemp("yolov8n")
    save(yolov8n(ASSETS), folder / "yolov8n.pt")
    words = [
        *(
            "yolo",
            "run",
            "--weights",
            str(folder / "yolov8n.pt"),
            "--data",
            str(COCO / "val" / "instances.json"),
        ),
        *(
            "--calib",
            str(COCO / "calib" / "images"),
            "--calib-images",
            "8",
            "--imgsz",
            "96",
            "--limit",
            "16",
        ),
        *("--rounds", "3", "--max-drop", "3pt", "--no-recalibrate", "--out", str(folder / "run")),
    ]
    done = CliRunner().invoke(group, words)
    assert done.exit_code in (0, 2), done.output
    return folder / "run"


def test_the_whole_job_on_yolov8n_from_a_weights_file(yolov8n_run):
    report = report_data(yolov8n_run)
    assert report.plan is not None
    assert len(report.units) == 63
    timed = {variant for timing in report.timings for variant in timing.variants}
    assert timed == {"float", "fp16", "int8", "partial"}
    assert re.search("mAP50-95", (yolov8n_run / "report.html").read_text())


def test_pycocotools_finds_in_the_exported_files_what_the_report_says(yolov8n_run):
    judge = runpy.run_path(str(EXAMPLES / "03_yolov8n" / "judge.py"))
    told = judge["reported"](yolov8n_run, "verified")
    data = load_task(f"{yolov8n_run / 'task.py'}:task").data
    assert set(told) == {"int8", "partial"}
    for variant, value in told.items():
        batches = judge["measured"](data, "verified")
        found, count = judge["judged"](
            yolov8n_run / f"model.{variant}.onnx", batches, COCO / "val" / "instances.json"
        )
        assert count == 16
        assert found == pytest.approx(value, abs=1e-6)
