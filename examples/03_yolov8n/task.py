"""YOLOv8n on COCO images, INT8 by ModelOpt with max calibration: which convolutions cost the mAP?

    sensitivity run examples/03_yolov8n/task.py:task --max-drop 0.3pt

Needs the package ultralytics, and the folder SENSITIVITY_ASSETS with weights/yolov8n_fused_state.pt
(state of `DetectionModel('yolov8n.yaml').fuse()`) and coco/{calib,val}/{instances.json,images}.
YOLOV8N_SIZE sets the side of the square input in pixels (320 or 640, the default).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch

from sensitivity.tasks.base import Task
from sensitivity.tasks.detection import ImageBatches, detection_task, random_splits
from sensitivity.tasks.detection_labels import LabelledImages, coco_images

ASSETS = Path(os.environ["SENSITIVITY_ASSETS"])
SIZE = int(os.environ.get("YOLOV8N_SIZE", "640"))
CALIBRATION_IMAGES = 64

# Per-channel weights and per-tensor inputs of convolutions, which is what TensorRT runs in INT8.
# ModelOpt's default also quantizes what goes into pooling. DFL is a convolution only in form: a sum
# over 16 bins, kept in float.
INT8 = {
    "quant_cfg": [
        {"quantizer_name": "*", "enable": False},
        {
            "quantizer_name": "*weight_quantizer",
            "parent_class": "nn.Conv2d",
            "cfg": {"num_bits": 8, "axis": 0},
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


def task(size: int = SIZE) -> Task:
    """A quarter of the 200 images to rank, half to confirm, a quarter held out."""
    labels = coco("val")
    return detection_task(
        int8_model(size), random_splits(labels.images, seed=0), labels.names, size=size
    )


def mostly_held_out(size: int = SIZE) -> Task:
    """An eighth of the 200 images to rank, a quarter to confirm, the rest held out: to compare ways
    to choose on images that none of them has seen, where every choice takes minutes."""
    labels = coco("val")
    splits = random_splits(
        labels.images, sizes={"rank": 0.125, "confirm": 0.25, "holdout": 0.625}, seed=0
    )
    return detection_task(int8_model(size), splits, labels.names, size=size)


def all_images(size: int = SIZE, batch: int = 8) -> Task:
    """All 200 images in each split, to measure how fast a scan is. Its holdout is not held out:
    trust no accuracy."""
    labels = coco("val")
    splits = dict.fromkeys(("rank", "confirm", "holdout"), labels.images)
    return detection_task(int8_model(size), splits, labels.names, size=size, batch=batch)


def int8_model(size: int) -> torch.nn.Module:
    """YOLOv8n quantized and calibrated on images that no split holds."""
    import modelopt.torch.quantization as mtq

    calibration = ImageBatches(coco("calib").images[:CALIBRATION_IMAGES], size=size, batch=8)

    def forward(model: torch.nn.Module) -> None:
        for inputs, _ in calibration:
            model(inputs)

    with torch.no_grad():
        return mtq.quantize(float_model(), INT8, forward)


def float_model() -> torch.nn.Module:
    """Fused YOLOv8n in eval mode; gives [n, 84, anchors] alone, boxes decoded."""
    # On import ultralytics writes settings to the home folder, prints where, and may install
    # packages: not here.
    os.environ.setdefault(
        "YOLO_CONFIG_DIR", str(Path(tempfile.gettempdir()) / "sensitivity-ultralytics")
    )
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolov8n.yaml", verbose=False).fuse(verbose=False).eval()
    model.load_state_dict(
        torch.load(ASSETS / "weights" / "yolov8n_fused_state.pt", weights_only=True)
    )
    head = model.model[-1]
    head.export = True  # gives the decoded tensor alone, without the feature maps it came from
    # computes its anchors each time; keeping them ties an exported graph to one batch size
    head.dynamic = True
    return model


def coco(split: str) -> LabelledImages:
    return coco_images(
        ASSETS / "coco" / split / "instances.json", ASSETS / "coco" / split / "images"
    )
