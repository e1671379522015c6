"""ResNet-20 on CIFAR-10: a model that INT8 hardly hurts, so that the right plan is to skip nothing,
or little.

The folder in SENSITIVITY_ASSETS holds `weights/resnet20-12fca82f.th` and
`cifar10/{train,test}/CLASS/`.
"""

import os
from pathlib import Path

import modelopt.torch.quantization as mtq
import torch
from resnet20 import ResNet20

from sensitivity.errors import TaskError
from sensitivity.tasks.base import Task
from sensitivity.tasks.classification import (
    ImageBatches,
    Images,
    classification_task,
    images_by_class,
    random_parts,
)
from sensitivity.tasks.images import centre_crop

SIZES = {"rank": 0.5, "confirm": 0.25, "holdout": 0.25}


def task() -> Task:
    """Calibrated on the training images; the 2,000 test images are drawn at random into the
    splits."""
    test = images_by_class(assets() / "cifar10/test")
    parts = random_parts(len(test.files), SIZES, seed=0)
    return classification_task(
        calibrated(), {name: batches(test.take(at)) for name, at in parts.items()}
    )


def all_images() -> Task:
    """All 2,000 test images in `rank`, for timing scans only: `confirm` and `holdout` are parts of
    the same images."""
    test = images_by_class(assets() / "cifar10/test")
    every = range(len(test.files))
    splits = {"rank": test, "confirm": test.take(every[::2]), "holdout": test.take(every[1::2])}
    return classification_task(calibrated(), {name: batches(part) for name, part in splits.items()})


def calibrated() -> torch.nn.Module:
    """INT8: weights per channel, activations per tensor, max ranges of the 500 training images. 20
    layers."""
    images = batches(images_by_class(assets() / "cifar10/train"))

    def run(model: torch.nn.Module) -> None:
        for inputs, _ in images:
            model(inputs)

    model: torch.nn.Module = mtq.quantize(float_model(), mtq.INT8_DEFAULT_CFG, run)
    return model.eval()


def float_model() -> torch.nn.Module:
    model = ResNet20()
    state = torch.load(
        assets() / "weights/resnet20-12fca82f.th", weights_only=True, map_location="cpu"
    )["state_dict"]
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    return model.eval()


def batches(images: Images) -> ImageBatches:
    return ImageBatches(images, centre_crop(32), batch=100)


def assets() -> Path:
    folder = os.environ.get("SENSITIVITY_ASSETS")
    if not folder or not (Path(folder) / "weights/resnet20-12fca82f.th").is_file():
        raise TaskError(
            "Expected SENSITIVITY_ASSETS to name a folder with weights/resnet20-12fca82f.th and "
            f"cifar10/, got {folder or 'nothing'}; see examples/02_resnet20/README.md."
        )
    return Path(folder)
