"""Images of any size and kind to the input of a detector, and boxes back to the image."""

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
"""Grey level of the border, as ultralytics and YOLOX train with it."""

Geometry = NDArray[np.float64]
"""float64[..., 6]: image pixels per input pixel in x and y; left and top border in input pixels;
its width, height."""


def image_size(file: Path) -> tuple[int, int]:
    """(width, height) as shown: EXIF orientation applied. Reads only the head of the file."""
    with _open(file) as image:
        turned = image.getexif().get(0x0112, 1) >= 5
        return (image.height, image.width) if turned else (image.width, image.height)


def load_rgb(file: Path, size: tuple[int, int] | None = None) -> Image:
    """The image in RGB, whatever its mode (grey, palette, alpha).

    size: (width, height) of its labels, which says whether they were made with or without EXIF
    orientation; None applies it. Raises TaskError where the file is no image, is cut off, or has
    another size than its labels.
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
    """The image scaled to fit an input of this size, centred on grey: uint8[height, width, 3], and
    its geometry.

    Plain bilinear sampling, without the smoothing that Pillow's `resize` adds when it shrinks:
    detectors are trained with OpenCV's, which has none; the two agree to one grey level.
    """
    return placed(image, size, fit(image.width, image.height, size))


def placed(image: Image, size: Size, geometry: Geometry) -> tuple[NDArray[np.uint8], Geometry]:
    """The image where the geometry puts it in an input of this size, and the geometry."""
    scale_x, scale_y, left, top = geometry[:4].tolist()
    matrix = (scale_x, 0.0, -left * scale_x, 0.0, scale_y, -top * scale_y)
    grey = (PAD, PAD, PAD)
    height, width = sides(size)
    affine, bilinear = optional.Image.Transform.AFFINE, optional.Image.Resampling.BILINEAR
    boxed = image.transform((width, height), affine, matrix, bilinear, fillcolor=grey)
    return np.asarray(boxed), geometry


def fit(width: int, height: int, size: Size) -> Geometry:
    """Where ultralytics' LetterBox puts an image of this size, float64[6]; each side keeps at least
    one pixel.

    >>> fit(640, 480, 320).tolist()
    [2.0, 2.0, 0.0, 40.0, 640.0, 480.0]
    >>> fit(640, 480, (240, 480)).tolist()
    [2.0, 2.0, 80.0, 0.0, 640.0, 480.0]
    """
    rows, columns = sides(size)
    ratio = min(columns / width, rows / height)
    inner = max(round(width * ratio), 1), max(round(height * ratio), 1)
    # An odd border gets its extra pixel right and below.
    left, top = round((columns - inner[0]) / 2 - 0.1), round((rows - inner[1]) / 2 - 0.1)
    return np.array([width / inner[0], height / inner[1], left, top, width, height])


def stretch(width: int, height: int, size: Size) -> Geometry:
    """An image of this size over all of the input, whatever its proportions, as RT-DETR is
    validated with.

    >>> stretch(640, 480, (240, 160)).tolist()
    [4.0, 2.0, 0.0, 0.0, 640.0, 480.0]
    """
    rows, columns = sides(size)
    return np.array([width / columns, height / rows, 0.0, 0.0, width, height])


def to_image(boxes: Floats, geometry: Geometry) -> NDArray[np.float64]:
    """Boxes [..., m, 4] of the input in image pixels, cut at the image's border. geometry: [...,
    6]."""
    scale, border, extent = (np.tile(geometry[..., None, at : at + 2], 2) for at in (0, 2, 4))
    inside: NDArray[np.float64] = np.clip((boxes - border) * scale, 0, extent)
    return inside


def to_input(boxes: Floats, geometry: Geometry) -> NDArray[np.float64]:
    """The reverse: boxes [..., m, 4] of the image in pixels of the input."""
    scale, border = (np.tile(geometry[..., None, at : at + 2], 2) for at in (0, 2))
    placed: NDArray[np.float64] = boxes / scale + border
    return placed


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
    # ultralytics replaces Image.open by one that looks for pi_heif where the format is unknown, and
    # misses it.
    got = "no format that Pillow knows" if isinstance(error, ImportError) else error
    return TaskError(
        f"Expected a readable image at {file}, got: {got}; replace or remove the file."
    )
