"""YOLOs of their own repositories: a loaded float model and labelled images to a task.

model = attempt_load("yolov7.pt", map_location="cpu")
return repository_task(model, "coco.yaml", names=model.names, imgsz=640)
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
    """Merge RepVGG blocks, quantize and calibrate a float YOLO, and judge it by COCO mAP.

    model: takes float32[n, 3, height, width], RGB 0..1; gives [n, anchors, 5 + classes] (centre,
    size in pixels, objectness, class confidences), alone or first; other outputs need another
    `decode`. data, calib, limit: as in `sensitivity yolo run`. Raises TaskError, and ModelError
    where merging changes the outputs.
    """
    choices = YoloChoices(
        weights=Path("model"), data=Path(data), imgsz=imgsz, batch=batch, limit=limit,
        calib=Path(calib) if calib else None,
        calib_images=calib_images, calib_method=calib_method,
    )  # fmt: skip
    classes = tuple(names)
    splits, images = splits_of(labelled(choices.data, classes, split=choices.split).images, choices)
    inputs = [inputs for inputs, _ in ImageBatches(images, size=imgsz, batch=batch)]
    model = FirstOutput(model.float().eval()).eval()
    reparameterised(model, inputs[0])
    model = quantized(model, inputs, method=calib_method)
    return detection_task(model, splits, classes, size=imgsz, batch=batch, decode=decode)


class FirstOutput(nn.Module):
    """A detector with its first output alone, so that no feature maps are exported."""

    def __init__(self, yolo: Any) -> None:
        super().__init__()
        self.yolo = yolo

    def forward(self, x: Any) -> Any:
        outputs = self.yolo(x)
        return outputs[0] if isinstance(outputs, (tuple, list)) else outputs
