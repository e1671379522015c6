"""A task from a Q/DQ ONNX file and a path to data, without any code.

task = onnx_task("model.qdq.onnx", "coco/val")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sensitivity.errors import TaskError
from sensitivity.files import write_whole
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.tasks import onnx_arrays, onnx_data
from sensitivity.tasks.base import Task
from sensitivity.tasks.classification import Images, Top1, answer_lost
from sensitivity.tasks.detection import DetectionScore, random_splits
from sensitivity.tasks.detection_labels import LabelledImages
from sensitivity.tasks.detection_map import mean_average_precision
from sensitivity.tasks.onnx_arrays import Port
from sensitivity.tasks.onnx_data import (
    ClassifierPixels,
    Colours,
    DecodeName,
    Layout,
    Pixels,
    whole_numbers,
)

DETECTION_BATCH, CLASSIFICATION_BATCH = 8, 50
DTYPES = (
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)

TASK_FILE = '''\
"""What `sensitivity` made of {what}.

Change it where the file is meant otherwise; a task that measures something else needs a run
directory of its own.
"""

from sensitivity.onnx_task import onnx_task


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
) -> Task:
    """The task of a Q/DQ file: detection for COCO annotations, classification for class folders and
    arrays.

    path, float_path, custom_ops: as in `OnnxModel`. data: see `onnx_data.data_kind`. None of it may
    have been used for calibration. decode: what a detector's output means; told by its shape by
    default. colours, top: the order of an image's colours and its value of white; by default those
    that YOLO (RGB, 1) or YOLOX (BGR, 255) is trained with, for classifiers RGB with ImageNet's mean
    and deviation, for inputs of whole numbers 255. images: folder of the COCO images; by default
    beside the annotations. Raises TaskError, OnnxFileError.
    """
    model = OnnxModel(path, float_path=float_path, custom_ops=custom_ops)
    data = Path(data)
    kind = onnx_data.data_kind(data)
    if kind == "coco":
        labels = onnx_data.coco(data, None if images is None else Path(images))
        return _detection(model, labels, decode, colours, top)
    if kind == "folders":
        return _folders(model, onnx_data.folders(data), colours, top)
    if colours is not None or top is not None:
        raise TaskError(
            f"Expected colours and top with images, got them with {data}, whose arrays are taken "
            "as they are; leave them out."
        )
    x, y = onnx_arrays.arrays(data, ports(model), _classes(model))
    splits = dict(onnx_arrays.split_arrays(x, y, CLASSIFICATION_BATCH))
    return Task(model, splits, Top1(), metric="top-1", soft=answer_lost)


def ports(model: OnnxModel) -> list[Port]:
    """The inputs of the file. Raises TaskError for a type that no array has."""
    return [Port(item.name, _dtype(model, item), _sides(item.shape)) for item in model.get_inputs()]


def _dtype(model: OnnxModel, item: Any) -> str:
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


def _classes(model: OnnxModel) -> int | None:
    """How many classes the file's output tells; None where its shape does not say."""
    shape = _sides(model.get_outputs()[0].shape)
    return shape[1] if len(shape) == 2 else None


def image_input(model: OnnxModel) -> ImageInput:
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


def _folders(model: OnnxModel, found: Images, colours: Colours | None, top: float | None) -> Task:
    image = image_input(model)
    if top is None and whole_numbers(image.dtype):
        top = 255.0
    transform = ClassifierPixels(image.size, colours or "rgb", top, image.dtype)
    splits = onnx_data.split_folders(found, transform, image.layout, CLASSIFICATION_BATCH)
    return Task(model, dict(splits), Top1(found.classes), metric="top-1", soft=answer_lost)


def _detection(
    model: OnnxModel,
    labels: LabelledImages,
    decode: DecodeName | None,
    colours: Colours | None,
    top: float | None,
) -> Task:
    image = image_input(model)
    name = decode or onnx_data.decode_name(
        model.get_outputs()[0].shape, image.size, len(labels.names)
    )
    usual = onnx_data.PIXELS[name]
    if top is None:
        top = 255.0 if whole_numbers(image.dtype) else usual.top
    pixels = Pixels(colours or usual.colours, top, image.layout, image.dtype)
    splits = random_splits(labels.images)
    batches = {
        split: onnx_data.DetectionBatches(part, image.size, DETECTION_BATCH, pixels=pixels)
        for split, part in splits.items()
    }
    meaning = onnx_data.Decode(name, image.size, len(labels.names))
    reading = "" if decode else onnx_data.reading(name, model.get_outputs()[0].shape)
    score = DetectionScore(labels.names, meaning, meaning.rule, reading)
    return Task(
        model,
        batches,
        score,
        partial(mean_average_precision, classes=len(labels.names)),
        metric="mAP50-95",
    )


def written_task(
    path: str, out: Path, *, data: Path | None, decode: DecodeName | None, float_path: Path | None
) -> str:
    """Write a task file for this ONNX file into the run directory and return its reference.

    Raises TaskError where there is no data.
    """
    if data is None:
        raise TaskError(
            f"Expected --data with {path}: COCO annotations, a folder with one folder of images "
            "per class, or an .npz "
            "with inputs x and labels y; or write a task file that names the ONNX file, see "
            "docs/onnx.md."
        )
    given = {"path": Path(path), "data": data, "float_path": float_path}
    arguments = {name: str(value.resolve()) for name, value in given.items() if value is not None}
    if decode is not None:
        arguments["decode"] = decode
    lines = "".join(f"        {name}={value!r},\n" for name, value in arguments.items())
    content = TASK_FILE.format(what=f"{Path(path).name} and --data {data.name}", arguments=lines)
    write_whole(out / "task.py", content.encode())
    return f"{out / 'task.py'}:task"
