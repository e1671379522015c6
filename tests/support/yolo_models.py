"""Small YOLOs of the ultralytics package without trained weights, and images with boxes, for
tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sensitivity.workflows.yolo_weights import ultralytics

NAMES = ("cat", "dog", "cow")


def yolo(config: str = "yolov8n.yaml", kind: str = "DetectionModel", **options: Any) -> Any:
    """A model of three classes whose activations neither vanish nor explode."""
    ultralytics()
    from ultralytics.nn import tasks

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(tasks, kind)(config, nc=len(NAMES), verbose=False, **options)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            model.train()(torch.rand(4, options.get("ch", 3), 64, 64))
    model.names = dict(enumerate(NAMES))
    return model.eval()


def save(model: Any, file: Path) -> Path:
    torch.save({"model": model, "train_args": {}}, file)
    return file


def images(
    folder: Path, count: int, sizes: tuple[tuple[int, int], ...] = ((48, 64), (96, 50), (64, 64))
) -> list[Path]:
    """Noise of several sizes below `folder`; every third is a grey-scale image."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, files = np.random.default_rng(0), []
    for number in range(count):
        width, height = sizes[number % len(sizes)]
        shape = (height, width) if number % 3 == 2 else (height, width, 3)
        files.append(folder / f"{number:03d}.png")
        Image.fromarray(draw.integers(0, 255, shape, dtype=np.uint8)).save(files[-1])
    return files


def coco(folder: Path, count: int = 12, names: tuple[str, ...] = NAMES) -> Path:
    """Images with one object each, and their COCO JSON: its box, outline and key points."""
    files = images(folder / "images", count)
    content = {
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(names)],
        "images": [{"id": number, "file_name": file.name} for number, file in enumerate(files)],
        "annotations": [
            {
                "id": n,
                "image_id": n,
                "category_id": n % len(names) + 1,
                "bbox": [5, 5, 30, 30],
                "area": 900,
                "iscrowd": 0,
                "segmentation": [[5, 5, 35, 5, 35, 35, 5, 35]],
                "keypoints": [20, 20, 2] * 17,
            }
            for n in range(count)
        ],
    }
    annotations = folder / "instances.json"
    annotations.write_text(json.dumps(content))
    return annotations


def yolo_folder(folder: Path, count: int = 12) -> Path:
    """The same as a YOLO data set: train and val images, text files of labels, data.yaml."""
    for part in ("train", "val"):
        for number, file in enumerate(images(folder / "images" / part, count)):
            text = folder / "labels" / part / f"{file.stem}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(f"{number % len(NAMES)} 0.4 0.4 0.5 0.5\n")
    names = "\n".join(f"  {number}: {name}" for number, name in enumerate(NAMES))
    (folder / "data.yaml").write_text(
        f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}\n"
    )
    return folder / "data.yaml"


def yolov8n(assets: str) -> Any:
    """The trained YOLOv8n of the folder that SENSITIVITY_ASSETS names, with its BatchNorms
    folded."""
    model = yolo_fused(80)
    state = torch.load(Path(assets) / "weights" / "yolov8n_fused_state.pt", weights_only=True)
    model.load_state_dict(state)
    return model


def yolo_fused(classes: int) -> Any:
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolov8n.yaml", nc=classes, verbose=False).fuse(verbose=False).eval()
    model.names = {number: f"class {number}" for number in range(classes)}
    return model
