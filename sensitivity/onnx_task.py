"""A task from an ONNX file and a path to data, without any code.

task = onnx_task("model.qdq.onnx", "coco/val")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sensitivity.config import TaskChoices
from sensitivity.errors import TaskError
from sensitivity.files import write_whole
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.tasks import onnx_arrays, onnx_data
from sensitivity.tasks.base import Task
from sensitivity.tasks.classification import Images, Top1, answer_lost
from sensitivity.tasks.detection import SIZES, DetectionScore, random_splits
from sensitivity.tasks.detection_labels import LabelledImages, unlabelled
from sensitivity.tasks.detection_map import mean_average_precision
from sensitivity.tasks.onnx_arrays import Port
from sensitivity.tasks.onnx_data import (
    Calibration,
    ClassifierPixels,
    Colours,
    DecodeName,
    Layout,
    Pixels,
    whole_numbers,
)

DETECTION_BATCH, CLASSIFICATION_BATCH = 8, 50
CALIBRATION_SAMPLES = 128
"""What calibrates where nobody says how many samples, at most a fifth of the data."""

DTYPES = (
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)

TASK_FILE = '''\
"""What `sensitivity` made of {what}.

Change it where the file is meant otherwise; a task that measures something else needs a run
directory of its own.
"""

{imports}from sensitivity.onnx_task import onnx_task


def task():
    return onnx_task(
{arguments}    )
'''


@dataclass(frozen=True)
class ImageInput:
    """size: (height, width) in pixels. dtype: numpy's name of the input's type."""

    size: tuple[int, int]
    layout: Layout
    dtype: str = "float32"


class File(Protocol):
    """What is read of an ONNX file; ports are those of an `onnxruntime.InferenceSession`."""

    path: Path

    def get_inputs(self) -> Sequence[Any]: ...

    def get_outputs(self) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Reading:
    """How a file takes images, what its outputs mean, and which samples calibrate, if any. None is
    told by the file; see `onnx_task`."""

    decode: DecodeName | None = None
    colours: Colours | None = None
    top: float | None = None
    images: Path | None = None
    calibration: Calibration | None = None

    @property
    def set_aside(self) -> int:
        """How many samples of the data are in no split but "calib"."""
        return 0 if self.calibration is None else self.calibration.set_aside

    @property
    def source(self) -> Path | None:
        """Where samples to calibrate on are, that are none of the data."""
        return None if self.calibration is None else self.calibration.source


def onnx_task(
    path: str | Path,
    data: str | Path,
    *,
    float_path: str | Path | None = None,
    decode: DecodeName | None = None,
    colours: Colours | None = None,
    top: float | None = None,
    images: str | Path | None = None,
    custom_ops: str | Path | None = None,
    calib: str | Path | None = None,
    calib_samples: int = 0,
) -> Task:
    """The task of a Q/DQ file: detection for COCO annotations, classification for class folders and
    arrays.

    path, float_path, custom_ops: as in `OnnxModel`. data: see `onnx_data.data_kind`. None of it may
    have been used for calibration. decode: what a detector's output means; told by its shape by
    default. colours, top: the order of an image's colours and its value of white; by default those
    that YOLO (RGB, 1) or YOLOX (BGR, 255) is trained with, for classifiers RGB with ImageNet's mean
    and deviation, for inputs of whole numbers 255. images: folder of the COCO images; by default
    beside the annotations. calib: what the file was calibrated on, labels not needed: images, COCO
    annotations or an .npz; None with calib_samples for samples of the data itself, which are then
    in no split but "calib". calib_samples: at most so many, and at most a fifth of the data; 0 for
    none. Raises TaskError, OnnxFileError.
    """
    model = OnnxModel(path, float_path=float_path, custom_ops=custom_ops)
    samples = calib_samples or (CALIBRATION_SAMPLES if calib is not None else 0)
    source = None if calib is None else Path(calib)
    calibration = Calibration(samples, source) if samples else None
    folder = None if images is None else Path(images)
    return task_of(model, Path(data), Reading(decode, colours, top, folder, calibration))


def task_of(model: File, data: Path, reading: Reading) -> Task:
    """The task of a model on data; with calibration samples these are its split "calib".

    model: what the task is given, which may also be a float file. Raises TaskError.
    """
    kind = onnx_data.data_kind(data)
    if kind == "coco":
        return _detection(model, onnx_data.coco(data, reading.images), reading)
    if kind == "folders":
        return _folders(model, onnx_data.folders(data), reading)
    if reading.colours is not None or reading.top is not None:
        raise TaskError(
            f"Expected colours and top with images, got them with {data}, whose arrays are taken "
            "as they are; leave them out."
        )
    return _arrays(model, data, reading)


def _arrays(model: File, data: Path, reading: Reading) -> Task:
    taken = ports(model)
    x, y = onnx_arrays.arrays(data, taken, _classes(model))
    splits: dict[str, Any] = dict(
        onnx_arrays.split_arrays(x, y, CLASSIFICATION_BATCH, set_aside=reading.set_aside)
    )
    if reading.calibration is not None and reading.source is not None:
        samples = reading.calibration.samples
        inputs = onnx_arrays.calibration_inputs(reading.source, taken, samples)
        first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
        labels = np.zeros(len(first), np.int64)
        splits["calib"] = onnx_arrays.ArrayBatches(inputs, labels, CLASSIFICATION_BATCH)
    return Task(model, splits, Top1(), metric="top-1", soft=answer_lost)


def ports(model: File) -> list[Port]:
    """The inputs of the file. Raises TaskError for a type that no array has."""
    return [Port(item.name, _dtype(model, item), _sides(item.shape)) for item in model.get_inputs()]


def _dtype(model: File, item: Any) -> str:
    name = str(item.type).removeprefix("tensor(").removesuffix(")")
    name = {"float": "float32", "double": "float64"}.get(name, name)
    if name not in DTYPES:
        raise TaskError(
            f"Expected inputs of numbers that numpy has, got {item.type} for {item.name} of "
            f"{model.path.name}; write a task file, see docs/onnx.md."
        )
    return name


def _sides(shape: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(side if isinstance(side, int) else None for side in shape)


def _classes(model: File) -> int | None:
    """How many classes the file's output tells; None where its shape does not say."""
    shape = _sides(model.get_outputs()[0].shape)
    return shape[1] if len(shape) == 2 else None


def image_input(model: File) -> ImageInput:
    """The file's input, if it is one of colour images of a fixed size. Raises TaskError."""
    found = ports(model)
    if len(found) == 1 and len(found[0].shape) == 4:
        _, one, two, three = found[0].shape
        if one == 3 and two is not None and three is not None:
            return ImageInput((two, three), "nchw", found[0].dtype)
        if three == 3 and one is not None and two is not None:
            return ImageInput((one, two), "nhwc", found[0].dtype)
    raise TaskError(
        f"Expected {model.path.name} to have one input of colour images of a fixed size, [n, 3, "
        "height, width] or [n, height, width, 3], got "
        f"{', '.join(f'{item.name} {list(item.shape)}' for item in model.get_inputs())}; write a "
        "task file, see docs/onnx.md."
    )


def _folders(model: File, found: Images, reading: Reading) -> Task:
    image, top = image_input(model), reading.top
    if top is None and whole_numbers(image.dtype):
        top = 255.0
    transform = ClassifierPixels(image.size, reading.colours or "rgb", top, image.dtype)
    splits = onnx_data.split_folders(
        found, transform, image.layout, CLASSIFICATION_BATCH, set_aside=reading.set_aside
    )
    files = _calibration_images(reading)
    if files:
        images = Images(files, np.zeros(len(files), np.int64))
        splits["calib"] = onnx_data.ImageBatches(
            images, transform, CLASSIFICATION_BATCH, layout=image.layout
        )
    return Task(model, dict(splits), Top1(found.classes), metric="top-1", soft=answer_lost)


def _detection(model: File, labels: LabelledImages, reading: Reading) -> Task:
    image = image_input(model)
    shape = model.get_outputs()[0].shape
    name = reading.decode or onnx_data.decode_name(shape, image.size, len(labels.names))
    usual = onnx_data.PIXELS[name]
    top = reading.top
    if top is None:
        top = 255.0 if whole_numbers(image.dtype) else usual.top
    pixels = Pixels(reading.colours or usual.colours, top, image.layout, image.dtype)
    sizes = onnx_data.sizes_of(len(labels.images), reading.set_aside, SIZES)
    splits = random_splits(labels.images, sizes=sizes)
    files = _calibration_images(reading)
    if files:
        splits["calib"] = tuple(unlabelled(file) for file in files)
    batches = {
        split: onnx_data.DetectionBatches(part, image.size, DETECTION_BATCH, pixels=pixels)
        for split, part in splits.items()
    }
    meaning = onnx_data.Decode(name, image.size, len(labels.names))
    told = "" if reading.decode else onnx_data.reading(name, shape)
    score = DetectionScore(labels.names, meaning, meaning.rule, told)
    return Task(
        model,
        batches,
        score,
        partial(mean_average_precision, classes=len(labels.names)),
        metric="mAP50-95",
    )


def _calibration_images(reading: Reading) -> list[Path]:
    """Images that are none of the data; empty where a part of it calibrates, or nothing does."""
    if reading.calibration is None or reading.source is None:
        return []
    return onnx_data.calibration_images(reading.source, reading.calibration.samples)


def written_task(settings: TaskChoices, out: Path, made: Path | None = None) -> str:
    """Write a task file for the ONNX file of the settings into the run directory and return its
    reference.

    made: the Q/DQ file in the run directory that was made from it where it is a float file. Raises
    TaskError where there is no data.
    """
    arguments = _arguments(settings)
    if made is not None:
        arguments.setdefault("calib_samples", repr(CALIBRATION_SAMPLES))
        arguments["float_path"] = arguments["path"]
        arguments["path"] = f"Path(__file__).with_name({made.name!r})"
    lines = "".join(f"        {name}={value},\n" for name, value in arguments.items())
    content = TASK_FILE.format(
        what=f"{Path(settings.task).name} and --data {data_of(settings).name}",
        imports="" if made is None else "from pathlib import Path\n\n",
        arguments=lines,
    )
    write_whole(out / "task.py", content.encode())
    return f"{out / 'task.py'}:task"


def data_of(settings: TaskChoices) -> Path:
    """The data for an ONNX file. Raises TaskError where there is none."""
    if settings.data is None:
        raise TaskError(
            f"Expected --data with {settings.task}: COCO annotations, a folder with one folder of "
            "images per class, or an .npz "
            "with inputs x and labels y; or write a task file that names the ONNX file, see "
            "docs/onnx.md."
        )
    return settings.data


def _arguments(settings: TaskChoices) -> dict[str, str]:
    """Arguments of `onnx_task` as they are written; those that are as by default are left out."""
    given = {
        "path": Path(settings.task),
        "data": data_of(settings),
        "float_path": settings.float_model,
        "calib": settings.calib,
    }
    arguments = {
        name: repr(str(value.resolve())) for name, value in given.items() if value is not None
    }
    if settings.decode is not None:
        arguments["decode"] = repr(settings.decode)
    if settings.calib_samples is not None:
        arguments["calib_samples"] = repr(settings.calib_samples)
    return arguments
