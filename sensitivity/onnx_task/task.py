"""Chooses the task for an ONNX file by the kind of its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sensitivity.config import Colours, DecodeName
from sensitivity.errors import TaskError
from sensitivity.onnx_task.arrays import array_task
from sensitivity.onnx_task.detection import detection_task
from sensitivity.onnx_task.images import folder_task, unlabelled_images_task
from sensitivity.onnx_task.inputs import File
from sensitivity.onnx_task.reading import CALIBRATION_SAMPLES, Reading
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.tasks import onnx_data
from sensitivity.tasks.base import Task
from sensitivity.tasks.detection_labels import LabelForm, LabelledImages
from sensitivity.tasks.images import Size
from sensitivity.tasks.load import load_evaluator
from sensitivity.tasks.onnx_data import Calibration
from sensitivity.tasks.onnx_metadata import Exported, exported_by_ultralytics
from sensitivity.tasks.onnx_pixels import PixelChoices, channels
from sensitivity.tasks.yolo_data import train_apart


def onnx_task(
    path: str | Path,
    data: str | Path,
    *,
    float_path: str | Path | None = None,
    decode: DecodeName | None = None,
    colours: Colours | None = None,
    top: float | None = None,
    mean: str | float | Sequence[float] | None = None,
    std: str | float | Sequence[float] | None = None,
    imgsz: Size | None = None,
    images: str | Path | None = None,
    custom_ops: str | Path | None = None,
    evaluator: str | None = None,
    evaluator_code: str | None = None,
    calib: str | Path | None = None,
    calib_samples: int = 0,
) -> Task:
    """Return the task of a Q/DQ file.

    It is detection for labelled boxes, and classification for class folders and arrays. Without
    labels, the float model's outputs take their place.

    path, float_path, custom_ops: as in `OnnxModel`.
    data: see `onnx_data.data_kind`. None of it may have been used for calibration.
    decode: format of a detector's output; None recognises it from its shape.
    colours: order of an image's colour channels; None takes the usual order.
    top: value of white. None takes 255 if a given mean or deviation has a value above 1, else 1.
    mean, std: of each channel in the file's order, or one number for all, on the scale of `top`.
    imgsz: size of the images for a file that leaves their sides open: one side, or (height, width).
    images: folder of the COCO images; None if they are beside the annotations.
    evaluator: a metric of your own, "my_eval.py:function", see `load_evaluator`.
    evaluator_code: digest of that file when the run began. Raises TaskError if it has changed
        since.
    calib: what the file was calibrated on: images, COCO annotations, a data YAML (its train part)
        or an .npz. Labels are not needed. None with `calib_samples` takes the train part of a data
        YAML, else samples of the data, which are then in no split but "calib".
    calib_samples: largest number of calibration samples, and at most a fifth of the data; 0 for
        none, or for 128 with `calib`.

    By default the pixels are those that the metadata of ultralytics names; else those that YOLO
    (RGB, 1) or YOLOX (BGR, 255) is trained with; for classifiers RGB with ImageNet's mean and
    deviation; for integer inputs a white of 255.

    Raises TaskError, OnnxFileError.
    """
    model = OnnxModel(path, float_path=float_path, custom_ops=custom_ops)
    samples = calib_samples or (CALIBRATION_SAMPLES if calib is not None else 0)
    source = None if calib is None else Path(calib)
    reading = Reading(
        decode,
        PixelChoices(colours, top, channels("mean", mean), channels("std", std)),
        imgsz,
        None if images is None else Path(images),
        Calibration(samples, source) if samples else None,
        None if evaluator is None else load_evaluator(evaluator, evaluator_code),
    )
    return task_of(model, Path(data), reading)


def task_of(model: File, data: Path, reading: Reading) -> Task:
    """Return the task of a model on data, with calibration samples as its split "calib".

    model: the file that the task receives, which may also be a float file.
    Raises TaskError.
    """
    task = _usual_task(model, data, reading)
    return task if reading.evaluator is None else reading.evaluator.judging(task)


def _usual_task(model: File, data: Path, reading: Reading) -> Task:
    """Return the task with the usual metric of its data."""
    exported = exported_by_ultralytics(model.metadata, model.path.name)
    reading = replace(reading, size=reading.size or exported.size)
    kind = onnx_data.data_kind(data)
    _check_kind(kind, exported, model.path.name)
    if kind == "boxes":
        form = LabelForm() if reading.evaluator is not None else exported.form
        labels = onnx_data.boxes(data, exported.names, reading.images, form)
        return detection_task(model, labels, _with_train(reading, data, labels), exported)
    if kind == "folders":
        return folder_task(model, onnx_data.folders(data), reading, exported)
    if kind == "images":
        return unlabelled_images_task(model, data, reading, exported)
    return array_task(model, data, reading)


def _check_kind(kind: str, exported: Exported, name: str) -> None:
    """Raise TaskError for labels of another kind than the model's metadata asks for."""
    if not exported.task or kind in ("arrays", "images"):
        return
    is_classifier, has_folders = exported.task == "classify", kind == "folders"
    if is_classifier != has_folders:
        wanted, got = LABELS[is_classifier], LABELS[has_folders]
        raise TaskError(
            f"Expected --data with {wanted} for {name}, by its metadata a model of ultralytics for "
            f"{exported.task}, got {got}; give the data that it is validated on."
        )


LABELS = {True: "one folder of images per class", False: "labelled boxes"}
"""What the data must hold, by whether the model is a classifier."""


def _with_train(reading: Reading, data: Path, labels: LabelledImages) -> Reading:
    """Return the reading with the train part of a data YAML as calibration samples.

    It is unchanged if the user gave other samples, or if the train part is not apart from the data.
    """
    wanted = reading.calibration
    if wanted is None or wanted.source is not None:
        return reading
    described = onnx_data.described(data)
    if not train_apart(described, [image.file for image in labels.images]):
        return reading
    return replace(reading, calibration=replace(wanted, source=described))
