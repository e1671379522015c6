"""Train a small YOLO of ultralytics on the scenes, with its own loss: minutes on a CPU.

python train.py segment shapes_segment.pt --data shapes
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from shapes import NAMES, SIDE, TASKS, write
from torch import Tensor

from sensitivity.tasks.detection import ImageBatches
from sensitivity.tasks.detection_labels import LabelForm, LabelledImage
from sensitivity.tasks.detection_rotated import around
from sensitivity.tasks.yolo_data import labelled
from sensitivity.workflows.yolo_weights import ultralytics

sys.path.insert(0, str(Path(__file__).parents[1]))
from yolo_training import fit

BATCH, EPOCHS, RATE = 16, 6, 0.002
GAINS = SimpleNamespace(
    box=7.5, cls=0.5, dfl=1.5, pose=12.0, kobj=1.0, angle=1.0, overlap_mask=True, epochs=EPOCHS
)
MODELS = {
    "segment": ("SegmentationModel", "yolov8n-seg.yaml", LabelForm("outlines")),
    "pose": ("PoseModel", "yolov8n-pose.yaml", LabelForm("keypoints", 4, 2)),
    "obb": ("OBBModel", "yolov8n-obb.yaml", LabelForm("corners")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("weights", type=Path, help="file to write")
    parser.add_argument("--data", type=Path, default=Path("shapes"), help="drawn if missing")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    settings = parser.parse_args()
    if not settings.data.exists():
        write(settings.data)
    model = trained(settings.task, settings.data / settings.task / "data.yaml", settings.epochs)
    torch.save({"model": model, "train_args": {}}, settings.weights)


def trained(task: str, data: Path, epochs: int) -> Any:
    """The trained model in eval mode."""
    ultralytics()
    from ultralytics.nn import tasks

    torch.manual_seed(0)
    torch.set_num_threads(1)  # so that the same machine gives the same bits
    kind, config, form = MODELS[task]
    more = {"data_kpt_shape": [4, 2]} if task == "pose" else {}
    model = getattr(tasks, kind)(config, nc=len(NAMES), verbose=False, **more)
    model.names, model.args, model.task = dict(enumerate(NAMES)), GAINS, task
    if task == "pose":
        model.kpt_shape = [4, 2]
    found = labelled(data, NAMES, split="train", form=form).images
    reader = ImageBatches(found, size=SIDE, batch=100)
    images = torch.cat([(inputs * 255).round().to(torch.uint8) for inputs, _ in reader])
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(wanted, RATE, weight_decay=5e-4)

    def batch(some: Tensor) -> dict[str, Tensor]:
        return batch_of(task, images[some], [found[at] for at in some])

    count = len(found)
    return fit(model, optimizer, batch, images=count, size=BATCH, epochs=epochs, rising=0.2)


def batch_of(task: str, images: Tensor, labels: list[LabelledImage]) -> dict[str, Tensor]:
    """A batch as ultralytics' losses want it."""
    counts = [len(label.boxes) for label in labels]
    batch = {
        "img": images.float() / 255,
        "batch_idx": torch.repeat_interleave(torch.arange(len(labels)), torch.tensor(counts)),
        "cls": _joined([label.classes for label in labels])[:, None],
        "bboxes": _joined([_centres(label.boxes) for label in labels]),
    }
    batch["batch_idx"] = batch["batch_idx"].float()
    if task == "segment":
        batch["masks"] = torch.from_numpy(np.stack([_numbered(label) for label in labels]))
    if task == "pose":
        points = _joined([_of(label.keypoints) for label in labels])
        batch["keypoints"] = torch.cat([points[..., :2] / SIDE, points[..., 2:]], dim=-1)
    if task == "obb":
        scale = [1 / SIDE] * 4 + [1]
        batch["bboxes"] = _joined([around(_of(label.corners)) * scale for label in labels])
    return batch


def _of(values: Any) -> np.ndarray:
    assert values is not None
    return np.asarray(values)


def _joined(values: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(values)).float()


def _centres(corners: np.ndarray) -> np.ndarray:
    """Corners in pixels to centre and size as shares of the image."""
    x1, y1, x2, y2 = corners.T
    return np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1) / SIDE


def _numbered(label: LabelledImage) -> np.ndarray:
    """uint8[SIDE / 4, SIDE / 4]: the number of the object at each cell, from 1; 0 for none."""
    image = Image.new("L", (SIDE, SIDE))
    for number, outline in enumerate(label.outlines or (), 1):
        ImageDraw.Draw(image).polygon(outline[0], fill=number)
    return np.asarray(image)[2::4, 2::4].copy()


if __name__ == "__main__":
    main()
