"""Scenes of turned rectangles and triangles, with labels for each of ultralytics' tasks.

    python shapes.py shapes

Below `shapes` there is a data set for each: segment (outlines), pose (the corners as key points)
and obb (the corners of turned rectangles), over the same images.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 96
NAMES = ("bar", "wedge")
COUNTS = {"train": 640, "val": 160}
TASKS = ("segment", "pose", "obb")

Corners = NDArray[np.float64]


def write(folder: Path) -> None:
    """Draw all scenes and write their labels."""
    for part, count in COUNTS.items():
        rng = np.random.default_rng(len(part))
        for number in range(count):
            image, found = scene(rng)
            file = folder / "images" / part / f"{number:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
            for task in TASKS:
                text = folder / task / "labels" / part / f"{number:04d}.txt"
                text.parent.mkdir(parents=True, exist_ok=True)
                text.write_text("\n".join(line(task, *one) for one in found))
    for task in TASKS:
        # copies: labels are looked for beside the images that a link leads to
        shutil.copytree(folder / "images", folder / task / "images")
        (folder / task / "data.yaml").write_text(
            "path: .\ntrain: images/train\nval: images/val\nkpt_shape: [4, 2]\n"
            f"names: {dict(enumerate(NAMES))}\n"
        )


def scene(rng: np.random.Generator) -> tuple[Image.Image, list[tuple[int, Corners]]]:
    """An image, and class and corners of one to three shapes in it, apart from each other."""
    pixels = rng.normal(rng.uniform(60, 190, 3), 14, (SIDE, SIDE, 3)).clip(0, 255)
    image = Image.fromarray(pixels.astype(np.uint8))
    found: list[tuple[int, Corners]] = []
    for _ in range(rng.integers(1, 4)):
        label = int(rng.integers(len(NAMES)))
        corners = shape(rng, label)
        others = np.array([other.mean(axis=0) for _, other in found]).reshape(-1, 2)
        if np.linalg.norm(others - corners.mean(axis=0), axis=1).min(initial=99) < 34:
            continue
        colour = tuple(int(value) for value in rng.integers(0, 255, 3))
        ImageDraw.Draw(image).polygon([tuple(point) for point in corners], fill=colour)
        found.append((label, corners))
    return image, found


def shape(rng: np.random.Generator, label: int) -> Corners:
    """Four corners of a turned rectangle; of a triangle the tip twice."""
    half = np.array([rng.uniform(11, 17), rng.uniform(5, 8)])
    plain = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    if label == 1:
        plain[1:3] = [half[0], 0]
    angle = rng.uniform(-np.pi / 4, np.pi / 4)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return plain @ turn + rng.uniform(19, SIDE - 19, 2)


def line(task: str, label: int, corners: Corners) -> str:
    """The label of one shape, as a line of YOLO's text files."""
    shares = corners / SIDE
    low, high = shares.min(axis=0), shares.max(axis=0)
    box = [*((low + high) / 2), *(high - low)] if task == "pose" else []
    return " ".join([str(label), *(f"{value:.6f}" for value in [*box, *shares.ravel()])])


if __name__ == "__main__":
    write(Path(sys.argv[1]))
