"""The trained RepVGG-YOLO, merged and in INT8 with one scale per weight tensor: which blocks cost
the mAP?

    sensitivity run examples/09_repvgg_yolo/task.py:task --max-drop 0.3pt

REPVGG_YOLO and SCENES say where `train.py` left the weights and the data.yaml; the working
directory by default.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sensitivity.config import YoloChoices
from sensitivity.tasks.base import Task
from sensitivity.tasks.detection import ImageBatches, detection_task
from sensitivity.tasks.yolo_data import labelled
from sensitivity.workflows.yolo import splits_of
from sensitivity.workflows.yolo_weights import load_yolo

CHOICES = YoloChoices(
    weights=Path(os.environ.get("REPVGG_YOLO", "repvgg_yolo.pt")),
    data=Path(os.environ.get("SCENES", "scenes/data.yaml")),
    imgsz=96,
    batch=25,
)

# What `sensitivity yolo` quantizes, but with one scale per weight tensor: the default of ONNX
# Runtime's `quantize_static`, and all that some accelerators know.
INT8_PER_TENSOR = {
    "quant_cfg": [
        {"quantizer_name": "*", "enable": False},
        {
            "quantizer_name": "*weight_quantizer",
            "parent_class": "nn.Conv2d",
            "cfg": {"num_bits": 8, "axis": None},
        },
        {
            "quantizer_name": "*input_quantizer",
            "parent_class": "nn.Conv2d",
            "cfg": {"num_bits": 8, "axis": None},
        },
        {"quantizer_name": "*.dfl.*", "enable": False},
    ],
    "algorithm": "max",
}

NOTHING = 2**-24
"""ModelOpt takes a smaller range for 0."""


def task() -> Task:
    """A quarter of the 800 validation scenes to rank, half to confirm, a quarter held out; 64
    others calibrate."""
    yolo = load_yolo(CHOICES.weights)  # merges the blocks
    splits, calibration = splits_of(labelled(CHOICES.data, yolo.names, split="val").images, CHOICES)
    model = int8(yolo.model, ImageBatches(calibration, size=CHOICES.imgsz, batch=CHOICES.batch))
    return detection_task(model, splits, yolo.names, size=CHOICES.imgsz, batch=CHOICES.batch)


def int8(model: Any, calibration: ImageBatches) -> Any:
    """The model quantized in place and calibrated."""
    import modelopt.torch.quantization as mtq
    import torch
    from modelopt.torch.quantization.nn import TensorQuantizer

    def forward(model: Any) -> None:
        for inputs, _ in calibration:
            model(inputs)

    with torch.no_grad():
        model = mtq.quantize(model, INT8_PER_TENSOR, forward).eval()
    for quantizer in model.modules():
        # Digits of 12 to 32 pixels are found at the finer level; weight decay has left nothing of
        # the coarser one's boxes.
        if (
            isinstance(quantizer, TensorQuantizer)
            and quantizer.is_enabled
            and float(quantizer.amax) <= NOTHING
        ):
            quantizer.disable()
    return model
