"""MobileNetV1 x0.25 on ImageNet images: max calibration costs it 22 points of top-1.

The folder in SENSITIVITY_ASSETS holds `weights/mobilenetV1X0.25_pretrain.tar` and
`imagenet1k_256/`: 1,000 images, one per class, whose sorted names are in the order of the classes.
"""

import os
from pathlib import Path

import numpy as np
import torch
from mobilenet import MobileNet

from sensitivity.errors import TaskError
from sensitivity.tasks.base import Task
from sensitivity.tasks.classification import ImageBatches, Images, classification_task, random_parts
from sensitivity.tasks.images import centre_crop, image_files

SIZES = {"rank": 300, "confirm": 250, "holdout": 250}
CALIBRATION_IMAGES = 200


def task() -> Task:
    """Calibrated on the first 200 files; the other 800 are drawn at random into the splits.

    The first files are other classes (fish, birds) than the rest. A user with a lazy calibration
    set does just that, and it costs accuracy: which layers pay for it is what the scan finds out.
    """
    calib, splits = parts()
    return classification_task(calibrated(calib), {"calib": calib, **splits})


def parts(seed: int = 0) -> tuple[ImageBatches, dict[str, ImageBatches]]:
    """Batches to calibrate on, and the splits. seed: of drawing them."""
    images = imagenet()
    others = images.take(range(CALIBRATION_IMAGES, len(images.files)))
    at = random_parts(len(others.files), SIZES, seed=seed)
    return batches(images.take(range(CALIBRATION_IMAGES))), {
        name: batches(others.take(at[name])) for name in at
    }


def all_images() -> Task:
    """All 1,000 images in `rank`, in sorted order, as the published figures have it: 51.9 float,
    29.9 quantized.

    For timing scans and reproducing figures only. Its `confirm` and `holdout` are parts of the same
    images, of which 200 were calibrated on as well, so an accuracy it reports is not held out.
    """
    images = imagenet()
    splits = {
        "rank": images,
        "confirm": images.take(range(0, 1000, 2)),
        "holdout": images.take(range(1, 1000, 2)),
    }
    model = calibrated(batches(images.take(range(CALIBRATION_IMAGES))))
    return classification_task(model, {name: batches(part) for name, part in splits.items()})


def calibrated(calib: ImageBatches) -> torch.nn.Module:
    """INT8: weights per channel, activations per tensor, max ranges. 28 layers: 27 convolutions and
    `fc`."""
    import modelopt.torch.quantization as mtq

    def run(model: torch.nn.Module) -> None:
        for inputs, _ in calib:
            model(inputs)

    model: torch.nn.Module = mtq.quantize(float_model(), mtq.INT8_DEFAULT_CFG, run)
    return model.eval()


def float_model() -> torch.nn.Module:
    model = MobileNet()
    state = torch.load(
        assets() / "weights/mobilenetV1X0.25_pretrain.tar", weights_only=True, map_location="cpu"
    )
    model.load_state_dict(
        {name.removeprefix("module."): value for name, value in state["state_dict"].items()}
    )
    return model.eval()


def imagenet() -> Images:
    files = image_files(assets() / "imagenet1k_256")
    if len(files) != 1000:
        raise TaskError(
            f"Expected 1000 images in {assets()}/imagenet1k_256, one per class, got {len(files)}."
        )
    return Images(files, np.arange(1000), classes=1000)


def batches(images: Images) -> ImageBatches:
    return ImageBatches(images, centre_crop(224), batch=50)


def assets() -> Path:
    folder = os.environ.get("SENSITIVITY_ASSETS")
    if not folder or not (Path(folder) / "weights/mobilenetV1X0.25_pretrain.tar").is_file():
        raise TaskError(
            "Expected SENSITIVITY_ASSETS to name a folder with "
            "weights/mobilenetV1X0.25_pretrain.tar and imagenet1k_256/, got "
            f"{folder or 'nothing'}; see examples/01_mobilenet/README.md."
        )
    return Path(folder)
