"""Train the RepVGG-YOLO on scenes of digits with the loss of ultralytics: minutes on a CPU.

python train.py repvgg_yolo.pt --data scenes

The recipe is that of `sensitivity demo`: plain SGD, a high rate, the same weight decay on
everything. The network is wider than ten digits need, and training leaves some channels almost
unused.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from repvgg_yolo import repvgg_yolo
from scenes import write
from torch import Tensor

from sensitivity.tasks.detection import ImageBatches
from sensitivity.tasks.yolo_data import labelled
from sensitivity.workflows.yolo_weights import ultralytics

sys.path.insert(0, str(Path(__file__).parents[1]))
from yolo_training import fit

NAMES = tuple(f"digit {digit}" for digit in range(10))
SIZE, BATCH = 96, 32
EPOCHS, RATE, DECAY = 10, 0.3, 1e-2
GAINS = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help="file to write")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("scenes"),
        help="folder of scenes, made where it is missing",
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    settings = parser.parse_args()
    data = settings.data / "data.yaml"
    if not data.exists():
        write(settings.data)
    model = trained(data, settings.epochs)
    torch.save({"model": model, "train_args": {}}, settings.weights)


def trained(data: Path, epochs: int) -> Any:
    """The trained model in eval mode, with its branches."""
    ultralytics()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so that the same machine gives the same bits
    images, batch = loaded(data)
    model = repvgg_yolo()
    model.names, model.args = dict(enumerate(NAMES)), GAINS
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(wanted, RATE, momentum=0.9, nesterov=True, weight_decay=DECAY)
    count = len(images)
    return fit(model, optimizer, batch, images=count, size=BATCH, epochs=epochs, rising=0.1)


def loaded(data: Path) -> tuple[Tensor, Any]:
    """All training images uint8[n, 3, SIZE, SIZE], and a function from indices to a batch as
    ultralytics' loss wants it."""
    found = labelled(data, NAMES, split="train").images
    reader = ImageBatches(found, size=SIZE, batch=100)
    images = torch.cat([(inputs * 255).round().to(torch.uint8) for inputs, _ in reader])
    boxes = [torch.from_numpy(_centres(image.boxes)).float() for image in found]
    classes = [torch.from_numpy(image.classes).float() for image in found]

    def batch(some: Tensor) -> dict[str, Tensor]:
        return {
            "img": images[some].float() / 255,
            "batch_idx": torch.cat(
                [torch.full((len(boxes[at]),), float(n)) for n, at in enumerate(some)]
            ),
            "cls": torch.cat([classes[at] for at in some])[:, None],
            "bboxes": torch.cat([boxes[at] for at in some]),
        }

    return images, batch


def _centres(corners: np.ndarray) -> np.ndarray:
    """Corners in pixels to centre and size as shares of the image."""
    x1, y1, x2, y2 = corners.T
    return np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1) / SIZE


if __name__ == "__main__":
    main()
