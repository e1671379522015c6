"""The models that `runtimes.py` times. They are calibrated, and their skip connections are
quantized as engines require."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import nn

from sensitivity.opened import quantized_model
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.records import Scores
from sensitivity.units.placement import add_residual_quantizers
from sensitivity.workflows.yolo_quantize import share_residual_quantizers

YOLO = Path(__file__).parents[1] / "examples" / "03_yolov8n" / "task.py"
YOLO_SIZE = 640

# As in the example of YOLOv8n: what TensorRT runs in INT8, and nothing around pooling.
INT8 = {
    "quant_cfg": [
        {"quantizer_name": "*", "enable": False},
        *(
            {
                "quantizer_name": f"*{role}_quantizer",
                "parent_class": kind,
                "cfg": {"num_bits": 8, "axis": axis},
            }
            for kind in ("nn.Conv2d", "nn.Linear")
            for role, axis in (("weight", 0), ("input", None))
        ),
    ],
    "algorithm": "max",
}


@dataclass(frozen=True)
class Judge:
    """The data and the metric of a model.

    batches: (inputs, targets), which can be iterated any number of times.
    score, aggregate: as in a task.
    """

    metric: str
    batches: Any
    score: Callable[[Any, Any], ArrayLike]
    aggregate: Callable[[Scores], float]


@dataclass(frozen=True)
class Subject:
    """A model to time.

    calibration: batches of inputs. Outputs are compared on the first.
    judge: None without a metric.
    """

    name: str
    source: QuantizedModel
    calibration: Sequence[torch.Tensor]
    judge: Judge | None = None


class Block(nn.Module):
    """Two 3x3 convolutions and a skip connection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs, momentum=None)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, momentum=None)
        self.relu = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs, momentum=None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """The layers of He et al. 2015, "Deep residual learning": 18 layers with weights on the longest
    path."""

    def __init__(self, width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width, momentum=None)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = [width * factor for factor in (1, 2, 4, 8)]
        stages = zip([width, *widths[:3]], widths, (1, 2, 2, 2), strict=True)
        self.layers = nn.Sequential(
            *(nn.Sequential(Block(a, b, stride), Block(b, b, 1)) for a, b, stride in stages)
        )
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


def resnet18(images: int = 0, *, width: int = 64, size: int = 224) -> Subject:
    """ResNet18 with random weights and the BatchNorm statistics of random images (`momentum=None`
    averages them). It has no metric."""
    import modelopt.torch.quantization as mtq

    torch.manual_seed(0)
    model = ResNet18(width)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    batches = [torch.randn(4, 3, size, size) for _ in range(4)]
    with torch.no_grad():
        for batch in batches:
            model.train()(batch)
        quantized = mtq.quantize(
            model.eval(), INT8, lambda model: [model(batch) for batch in batches]
        )
    return with_residuals(Subject("resnet18", quantized_model(quantized), batches))


def yolov8n(images: int) -> Subject:
    """YOLOv8n at 640 pixels, calibrated on COCO images. Its metric is mAP on the first `images`
    other images; it has none for 0."""
    example = yolo_example()
    task = example.task(YOLO_SIZE)
    photos = example.coco("calib").images[: example.CALIBRATION_IMAGES]
    calibration = [
        inputs for inputs, _ in replace(task.data["rank"], images=photos, batch=8, _kept={})
    ]
    judge = None
    if images:
        chosen = replace(
            task.data["rank"], images=example.coco("val").images[:images], batch=1, _kept={}
        )
        judge = Judge(task.metric, chosen, task.score, task.aggregate)
    # as `sensitivity yolo` does: its skip connections carry no module's output
    share_residual_quantizers(task.model)
    return Subject("yolov8n", quantized_model(task.model), calibration, judge)


def with_residuals(subject: Subject) -> Subject:
    """Take ranges from the calibration of other quantizers, so that quantizers that see the same
    values have equal ranges."""
    add_residual_quantizers(subject.source, subject.calibration)
    return replace(subject, source=quantized_model(subject.source.model))


def yolo_example() -> Any:
    spec = importlib.util.spec_from_file_location("yolov8n_task", YOLO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SUBJECTS: dict[str, Callable[[int], Subject]] = {"resnet18": resnet18, "yolov8n": yolov8n}
