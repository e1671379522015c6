"""Turns images of any size and kind into the input of a detector, and its boxes back into those of
the image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sensitivity import optional
from sensitivity.errors import MissingPackage, TaskError
from sensitivity.tasks.detection_boxes import Floats
from sensitivity.tasks.images import Size, sides

if TYPE_CHECKING:
    from PIL.Image import Image

PAD = 114
"""Grey level of the border, which ultralytics and YOLOX use in training."""

EXIF_ORIENTATION = 0x0112
"""The EXIF tag that says how an image must be turned to be upright."""

FIRST_TURNED = 5
"""The smallest value of that tag with which width and height change places."""

Geometry = NDArray[np.float64]
"""Where an image lies in the input, float64[..., 6]: image pixels per input pixel in x and y; left
and top border in input pixels; width and height of the image in its own pixels."""


def image_size(file: Path) -> tuple[int, int]:
    """Return (width, height) in pixels of an image with its EXIF orientation applied. Only the
    header of the file is read."""
    with _open(file) as image:
        is_turned = image.getexif().get(EXIF_ORIENTATION, 1) >= FIRST_TURNED
        if is_turned:
            return image.height, image.width
        return image.width, image.height


def load_rgb(file: Path, size: tuple[int, int] | None = None) -> Image:
    """Read an image as RGB, whatever its mode (grey, palette, alpha).

    size: (width, height) for which its labels were made. It tells whether they were made with or
        without the EXIF orientation applied. None applies the orientation.
    Raises TaskError if the file is not an image, is truncated, or has another size than its
    labels.
    """
    with _open(file) as image:
        try:
            image.load()
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
            raise _unreadable(file, error) from error
        shown = image if size == image.size else optional.ImageOps.exif_transpose(image)
        if size is not None and shown.size != size:
            raise TaskError(
                f"Expected {file} to be {size[0]}x{size[1]} pixels as its annotations say, got "
                f"{shown.width}x{shown.height}; annotations are of the original files, not of "
                "resized ones."
            )
        return shown.convert("RGB")


def letterbox(image: Image, size: Size) -> tuple[NDArray[np.uint8], Geometry]:
    """Scale the image to fit the input and centre it on grey: uint8[height, width, 3], and its
    geometry.

    The sampling is plain bilinear, without the smoothing that Pillow's `resize` adds when it
    shrinks an image: detectors are trained with OpenCV's sampling, which has none. The two agree to
    one grey level.
    """
    return placed(image, size, fit(image.width, image.height, size))


def placed(image: Image, size: Size, geometry: Geometry) -> tuple[NDArray[np.uint8], Geometry]:
    """Put the image where `geometry` says, in an input of this size: uint8[height, width, 3], and
    the geometry."""
    scale_x, scale_y, left, top = geometry[:4].tolist()
    matrix = (scale_x, 0.0, -left * scale_x, 0.0, scale_y, -top * scale_y)
    grey = (PAD, PAD, PAD)
    height, width = sides(size)
    affine, bilinear = optional.Image.Transform.AFFINE, optional.Image.Resampling.BILINEAR
    boxed = image.transform((width, height), affine, matrix, bilinear, fillcolor=grey)
    return np.asarray(boxed), geometry


def fit(width: int, height: int, size: Size) -> Geometry:
    """Return the geometry float64[6] that ultralytics' LetterBox gives an image of `width` x
    `height` pixels. Each side keeps at least one pixel.

    >>> fit(640, 480, 320).tolist()
    [2.0, 2.0, 0.0, 40.0, 640.0, 480.0]
    >>> fit(640, 480, (240, 480)).tolist()
    [2.0, 2.0, 80.0, 0.0, 640.0, 480.0]
    """
    rows, columns = sides(size)
    ratio = min(columns / width, rows / height)
    inner_width, inner_height = max(round(width * ratio), 1), max(round(height * ratio), 1)
    # An odd border gets its extra pixel at the right and at the bottom.
    left, top = round((columns - inner_width) / 2 - 0.1), round((rows - inner_height) / 2 - 0.1)
    return np.array([width / inner_width, height / inner_height, left, top, width, height])


def stretch(width: int, height: int, size: Size) -> Geometry:
    """Return the geometry float64[6] that stretches an image of `width` x `height` pixels over the
    whole input, whatever its proportions, as RT-DETR is validated.

    >>> stretch(640, 480, (240, 160)).tolist()
    [4.0, 2.0, 0.0, 0.0, 640.0, 480.0]
    """
    rows, columns = sides(size)
    return np.array([width / columns, height / rows, 0.0, 0.0, width, height])


def to_image(boxes: Floats, geometry: Geometry) -> NDArray[np.float64]:
    """Return boxes in image pixels, clipped to the image.

    boxes: [..., m, 4], x1 y1 x2 y2 in input pixels.
    geometry: [..., 6].
    """
    scale, border, extent = (_per_corner(geometry, first) for first in (0, 2, 4))
    inside: NDArray[np.float64] = np.clip((boxes - border) * scale, 0, extent)
    return inside


def _per_corner(geometry: Geometry, first: int) -> NDArray[np.float64]:
    """Return the x and y at `first` of a geometry, for both corners of each box: [..., 1, 4]."""
    return np.tile(geometry[..., None, first : first + 2], 2)


def _open(file: Path) -> Image:
    try:
        from PIL import Image
    except ImportError:
        raise MissingPackage("pillow", "reading images", "images") from None
    try:
        return Image.open(file)
    except (OSError, SyntaxError, ImportError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> TaskError:
    # ultralytics replaces Image.open by a function that imports pi_heif for an unknown format, and
    # fails where that package is missing.
    got = "a format that Pillow does not know" if isinstance(error, ImportError) else error
    return TaskError(
        f"Expected a readable image at {file}, got: {got}; replace or remove the file."
    )
