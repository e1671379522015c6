"""A task from a Q/DQ ONNX file and a path to data, without any code.

task = onnx_task("model.qdq.onnx", "coco/val")
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sensitivity.errors import TaskError
from sensitivity.files import write_whole
from sensitivity.quantizers.onnx_model import OnnxModel
from sensitivity.tasks import onnx_data
from sensitivity.tasks.base import Task
from sensitivity.tasks.classification import Top1
from sensitivity.tasks.detection import DetectionScore, random_splits
from sensitivity.tasks.detection_boxes import Suppression
from sensitivity.tasks.detection_map import mean_average_precision
from sensitivity.tasks.onnx_data import DecodeName, Pixels

DETECTION_BATCH, CLASSIFICATION_BATCH = 8, 50

TASK_FILE = '''\
"""What `sensitivity` made of {what}.

Change it where the file is meant otherwise; a task that measures something else needs a run directory of its own.
"""

from sensitivity.onnx_task import onnx_task


def task():
    return onnx_task(
{arguments}    )
'''


@dataclass(frozen=True)
class ImageInput:
    """size: side of the square input in pixels."""

    size: int
    layout: Literal["nchw", "nhwc"]


def onnx_task(
    path: str | Path,
    data: str | Path,
    *,
    float_path: str | Path | None = None,
    decode: DecodeName | None = None,
    colours: Literal["rgb", "bgr"] | None = None,
    top: float | None = None,
    images: str | Path | None = None,
    custom_ops: str | Path | None = None,
) -> Task:
    """The task of a Q/DQ file: detection for COCO annotations, classification for class folders and arrays.

    path, float_path, custom_ops: as in `OnnxModel`. data: see `onnx_data.data_kind`. None of it may have been used for
    calibration. decode: what a detector's output means; told by its shape by default. colours, top: the order of a
    detector's colours and its value of white; by default those that YOLO (RGB, 1) or YOLOX (BGR, 255) is trained with.
    images: folder of the COCO images; by default beside the annotations.
    Raises TaskError, OnnxFileError.
    """
    model = OnnxModel(path, float_path=float_path, custom_ops=custom_ops)
    data = Path(data)
    kind = onnx_data.data_kind(data)
    if kind == "coco":
        return _detection(model, data, decode, colours, top, None if images is None else Path(images))
    if kind == "folders":
        image = image_input(model)
        found = onnx_data.folders(data)
        splits: dict[str, Any] = dict(onnx_data.split_folders(found, image.size, image.layout, CLASSIFICATION_BATCH))
        return Task(model, splits, Top1(found.classes), metric="top-1")
    x, y = onnx_data.arrays(data)
    return Task(model, dict(onnx_data.split_arrays(x, y, CLASSIFICATION_BATCH)), Top1(), metric="top-1")


def image_input(model: OnnxModel) -> ImageInput:
    """The file's input, if it is one of square colour images of a fixed size. Raises TaskError."""
    inputs = model.get_inputs()
    shape = list(inputs[0].shape)
    if len(inputs) == 1 and len(shape) == 4:
        if shape[1] == 3 and isinstance(shape[2], int) and shape[2] == shape[3]:
            return ImageInput(shape[2], "nchw")
        if shape[3] == 3 and isinstance(shape[1], int) and shape[1] == shape[2]:
            return ImageInput(shape[1], "nhwc")
    raise TaskError(
        f"Expected {model.path.name} to have one input of square colour images of a fixed size, [n, 3, size, size] or "
        f"[n, size, size, 3], got {', '.join(f'{item.name} {list(item.shape)}' for item in inputs)}; "
        "write a task file, see docs/onnx.md."
    )


def _detection(
    model: OnnxModel,
    data: Path,
    decode: DecodeName | None,
    colours: Literal["rgb", "bgr"] | None,
    top: float | None,
    images: Path | None,
) -> Task:
    image, labels = image_input(model), onnx_data.coco(data, images)
    name = decode or onnx_data.decode_name(model.get_outputs()[0].shape, image.size, len(labels.names))
    usual = onnx_data.PIXELS[name]
    pixels = Pixels(colours or usual.colours, usual.top if top is None else top, image.layout)
    splits = random_splits(labels.images)
    batches = {
        split: onnx_data.DetectionBatches(part, image.size, DETECTION_BATCH, pixels=pixels)
        for split, part in splits.items()
    }
    score = DetectionScore(labels.names, onnx_data.Decode(name, image.size), Suppression())
    return Task(model, batches, score, partial(mean_average_precision, classes=len(labels.names)), metric="mAP50-95")


def written_task(path: str, out: Path, *, data: Path | None, decode: DecodeName | None, float_path: Path | None) -> str:
    """Write a task file for this ONNX file into the run directory and return its reference.

    Raises TaskError where there is no data.
    """
    if data is None:
        raise TaskError(
            f"Expected --data with {path}: COCO annotations, a folder with one folder of images per class, or an .npz "
            "with inputs x and labels y; or write a task file that names the ONNX file, see docs/onnx.md."
        )
    given = {"path": Path(path), "data": data, "float_path": float_path}
    arguments = {name: str(value.resolve()) for name, value in given.items() if value is not None}
    if decode is not None:
        arguments["decode"] = decode
    lines = "".join(f"        {name}={value!r},\n" for name, value in arguments.items())
    content = TASK_FILE.format(what=f"{Path(path).name} and --data {data.name}", arguments=lines)
    write_whole(out / "task.py", content.encode())
    return f"{out / 'task.py'}:task"
