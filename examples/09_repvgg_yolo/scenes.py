"""Scenes of handwritten digits as a YOLO data set: scikit-learn's 8x8 digits, scaled and coloured
on soft backgrounds.

    python scenes.py scenes          # images/{train,val}, labels/{train,val}, data.yaml

Digits of validation scenes are in no training scene.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 96
DIGITS_TO_TRAIN = 1200


def write(folder: Path, train: int = 2000, val: int = 800) -> Path:
    """Write the data set, the same each time, and return its data.yaml."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.reshape(-1, 8, 8) / 16
    order = np.random.default_rng(0).permutation(len(pixels))
    parts = {"train": (train, order[:DIGITS_TO_TRAIN]), "val": (val, order[DIGITS_TO_TRAIN:])}
    for seed, (part, (count, digits)) in enumerate(parts.items(), 1):
        draw = np.random.default_rng(seed)
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, rows = scene(draw, pixels, labels, digits)
            Image.fromarray(image).save(folder / "images" / part / f"{number:05d}.png")
            (folder / "labels" / part / f"{number:05d}.txt").write_text("\n".join(rows))
    names = "\n".join(f"  {digit}: digit {digit}" for digit in range(10))
    (folder / "data.yaml").write_text(
        f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}\n"
    )
    return folder / "data.yaml"


def scene(
    draw: np.random.Generator, pixels: np.ndarray, labels: np.ndarray, digits: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """uint8[SIDE, SIDE, 3] with one to five digits that do not overlap, and their label lines."""
    canvas = _background(draw)
    boxes: list[tuple[int, int, int]] = []
    rows = []
    for digit in draw.choice(digits, draw.integers(1, 6), replace=False):
        side = int(draw.integers(12, 33))
        left, top = (int(value) for value in draw.integers(0, SIDE - side, 2))
        if any(abs(left - x) < max(side, s) and abs(top - y) < max(side, s) for x, y, s in boxes):
            continue
        boxes.append((left, top, side))
        shown = Image.fromarray(np.uint8(255 * pixels[digit])).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        ink = np.asarray(shown, np.float32)[..., None] / 255
        place = canvas[top : top + side, left : left + side]
        place += (
            ink
            * (draw.uniform(0, 1, 3).astype(np.float32) + draw.choice([-0.9, 0.9]) - place)
            * 0.8
        )
        at = (left + side / 2) / SIDE, (top + side / 2) / SIDE, side / SIDE, side / SIDE
        rows.append(f"{labels[digit]} " + " ".join(f"{value:.6f}" for value in at))
    noisy = canvas + draw.normal(0, 0.03, canvas.shape)
    return np.uint8(255 * np.clip(noisy, 0, 1)), rows


def _background(draw: np.random.Generator) -> np.ndarray:
    coarse = Image.fromarray(np.uint8(draw.integers(60, 200, (4, 4, 3))))
    return np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32) / 255


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    print(write(parser.parse_args().folder))
