"""YOLOs of their own repositories: from a loaded float model and labelled images to a task.

    model = attempt_load("yolov7.pt", map_location="cpu")
    return repository_task(model, "coco.yaml", names=model.names, imgsz=640)

The repository's own code loads the model, and its package must be importable.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from sensitivity.config import CalibrationMethod, ImageSize, YoloChoices
from sensitivity.tasks.base import Task
from sensitivity.tasks.detection import Decode, ImageBatches, detection_task
from sensitivity.tasks.detection_boxes import decode_objectness
from sensitivity.tasks.yolo_data import labelled
from sensitivity.workflows.reparameterise import reparameterised
from sensitivity.workflows.yolo import splits_of
from sensitivity.workflows.yolo_quantize import quantized


def repository_task(
    model: Any,
    data: str | Path,
    *,
    names: Iterable[str],
    imgsz: ImageSize = 640,
    batch: int = 8,
    decode: Decode = decode_objectness,
    calib: str | Path | None = None,
    calib_images: int = 64,
    calib_method: CalibrationMethod = "max",
    limit: int | None = None,
) -> Task:
    """Merge the RepVGG blocks of a float YOLO, quantize and calibrate it, and return a task whose
    metric is COCO's mAP50-95.

    model: takes float32[n, 3, height, width], RGB in the range 0 to 1. Its only or first output is
        [n, anchors, 5 + classes]: centre and size in pixels, objectness, class confidences. Another
        output needs another `decode`.
    data: labelled images, in a form that `sensitivity yolo run` takes.
    names: the class names, in the order of the outputs.
    imgsz: side of the square input in pixels, or (height, width).
    batch: images in a batch.
    decode: turns the model's output into boxes and confidences.
    calib: images to calibrate with. None takes the train part of a data YAML, or else a share of
        `data`.
    calib_images: the most images to calibrate with.
    calib_method: how the ranges of activations are found.
    limit: the most images that are used of `data`, drawn at random. None uses all of them.
    Raises TaskError for data that cannot be used, and ModelError if merging changes the outputs.
    """
    choices = YoloChoices(
        weights=Path("model"),
        data=Path(data),
        imgsz=imgsz,
        batch=batch,
        limit=limit,
        calib=Path(calib) if calib else None,
        calib_images=calib_images,
        calib_method=calib_method,
    )
    classes = tuple(names)
    data_set = labelled(choices.data, classes, split=choices.split)
    splits, calib_set = splits_of(data_set.images, choices)
    inputs = [inputs for inputs, _ in ImageBatches(calib_set, size=imgsz, batch=batch)]
    model = FirstOutput(model.float().eval()).eval()
    reparameterised(model, inputs[0])
    model = quantized(model, inputs, method=calib_method)
    return detection_task(model, splits, classes, size=imgsz, batch=batch, decode=decode)


class FirstOutput(nn.Module):
    """A detector that gives its first output alone, so that no feature maps are exported."""

    def __init__(self, yolo: Any) -> None:
        super().__init__()
        self.yolo = yolo

    def forward(self, x: Any) -> Any:
        outputs = self.yolo(x)
        return outputs[0] if isinstance(outputs, (tuple, list)) else outputs
