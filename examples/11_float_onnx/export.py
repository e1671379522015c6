"""ResNet-20 for CIFAR-10 as a float ONNX file, and its images as arrays: what most people have.

    python examples/11_float_onnx/export.py runs/float

Needs the folder SENSITIVITY_ASSETS with weights/resnet20-12fca82f.th and cifar10/test/CLASS/.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch

from sensitivity.tasks.classification import images_by_class
from sensitivity.tasks.images import centre_crop, read_rgb

sys.path.insert(0, str(Path(__file__).parents[1] / "02_resnet20"))
from resnet20 import ResNet20


def main(out: Path) -> None:
    assets = Path(os.environ["SENSITIVITY_ASSETS"])
    state = torch.load(
        assets / "weights/resnet20-12fca82f.th", weights_only=True, map_location="cpu"
    )
    model = ResNet20()
    model.load_state_dict(
        {name.removeprefix("module."): value for name, value in state["state_dict"].items()}
    )
    out.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model.eval(),
        (torch.zeros(1, 3, 32, 32),),
        out / "resnet20.onnx",
        opset_version=17,
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
    )
    images = images_by_class(assets / "cifar10/test")
    pixels = centre_crop(32, resize=32)
    x = np.stack([pixels(read_rgb(file)) for file in images.files])
    np.savez(out / "cifar10.npz", x=x, y=images.labels)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
