"""Reads image files into the arrays that a classifier takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sensitivity import optional
from sensitivity.errors import MissingPackage, TaskError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Channels = tuple[float, float, float]

Size = int | tuple[int, int]
"""The size of an input in pixels: the side of a square one, or (height, width)."""


def sides(size: Size) -> tuple[int, int]:
    """Return the size as (height, width)."""
    if isinstance(size, int):
        return size, size
    return size


def shown_size(size: Size) -> str:
    """Return the size as text: the side of a square, or height x width.

    >>> shown_size((64, 96)), shown_size((64, 64))
    ('64x96', '64')
    """
    height, width = sides(size)
    if height == width:
        return str(height)
    return f"{height}x{width}"


def image_files(folder: Path) -> list[Path]:
    """Return every file below a folder that has the suffix of an image, sorted by path. Hidden
    files are left out. Raises TaskError if there is no such folder."""
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        raise TaskError(f"Expected a folder of images at {folder}, got {got}; check the path.")
    files = []
    for file in folder.rglob("*"):
        is_image = file.suffix.lower() in SUFFIXES
        if is_image and not _hidden(file, folder):
            files.append(file)
    return sorted(files)


def read_rgb(file: Path) -> Image:
    """Read an image as RGB, whatever its mode. The EXIF orientation is not applied, as in
    torchvision's ImageFolder.

    Raises TaskError if the file is not an image, or is truncated.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingPackage("pillow", "reading images", "images") from None
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ImportError) as error:
        # Pillow raises SyntaxError for a broken PNG. ultralytics replaces Image.open by a function
        # that imports pi_heif for an unknown format, and fails where that package is missing.
        got = "a format that Pillow does not know" if isinstance(error, ImportError) else error
        raise TaskError(
            f"Expected a readable image at {file}, got: {got}; replace or remove the file."
        ) from error


def centre_crop(
    size: Size,
    *,
    resize: Size | None = None,
    mean: Channels = IMAGENET_MEAN,
    std: Channels = IMAGENET_STD,
) -> Callable[[Image], NDArray[np.float32]]:
    """Return the usual preparation of ImageNet models, as a function from an RGB image to
    float32[3, height, width]. That function raises TaskError for an image smaller than the crop.

    size: the crop, side of a square in pixels or (height, width).
    resize: the length to which the shorter side is scaled first, or (height, width) that the scaled
        image just covers; bilinear. None does not scale the image.
    mean, std: of each channel, for pixels from 0 to 1. The mean is subtracted, and the result is
        divided by the deviation.
    """
    return CentreCrop(size, resize, mean, std)


@dataclass(frozen=True)
class CentreCrop:
    """The function that `centre_crop` returns, in two parts: the pixels of an image, which take a
    quarter of the memory, and their values."""

    size: Size
    resize: Size | None
    mean: Channels
    std: Channels

    def __call__(self, image: Image) -> NDArray[np.float32]:
        (values,) = self.values(self.pixels(image)[np.newaxis])
        return np.asarray(values)

    def pixels(self, image: Image) -> NDArray[np.uint8]:
        """Return the crop, [3, height, width].

        Raises TaskError for an image smaller than the crop.
        """
        height, width = sides(self.size)
        if self.resize is not None:
            image = _covering(image, *sides(self.resize))
        if image.width < width or image.height < height:
            raise TaskError(
                f"Expected images of at least {width}x{height} pixels to crop from, got "
                f"{image.width}x{image.height}; pass resize={self.size} or more."
            )
        left, top = (image.width - width) // 2, (image.height - height) // 2
        crop = image.crop((left, top, left + width, top + height))
        return np.ascontiguousarray(np.asarray(crop).transpose(2, 0, 1))

    def values(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what the model reads of these pixels [n, 3, height, width]."""
        centre, spread = (
            np.asarray(part, np.float32).reshape(3, 1, 1) for part in (self.mean, self.std)
        )
        values = np.empty(pixels.shape, np.float32)
        for image, result in zip(pixels, values, strict=True):  # one image fits into the caches
            np.divide(image, np.float32(255), out=result)
            np.subtract(result, centre, out=result)
            np.divide(result, spread, out=result)
        return values


def _covering(image: Image, height: int, width: int) -> Image:
    """Return the image scaled, with its proportions kept, to just cover this size."""
    ratio = max(width / image.width, height / image.height)
    size = max(round(image.width * ratio), width), max(round(image.height * ratio), height)
    if size == image.size:
        return image
    return image.resize(size, optional.Image.Resampling.BILINEAR)


def _hidden(file: Path, folder: Path) -> bool:
    """Return whether the file or a folder above it, up to `folder`, is hidden."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)
