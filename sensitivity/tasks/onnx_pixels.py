"""Colour images in the form that an ONNX file takes: the order of the colours, scale, mean and
deviation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sensitivity.config import Colours
from sensitivity.errors import TaskError
from sensitivity.tasks.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Channels,
    Size,
    centre_crop,
    sides,
)

Layout = Literal["nchw", "nhwc"]

RESIZE = 256 / 224
"""Length of the shorter side before the crop, as a multiple of the crop. ImageNet models are
evaluated with it."""

OF_255 = 1.0
"""A mean or deviation above this is on the scale of pixels from 0 to 255."""


@dataclass(frozen=True)
class PixelChoices:
    """What the user says about how a file takes pixels. None stands for what is usual for such a
    file.

    colours: the order of the colour channels.
    top: the value of white, where black is 0.
    mean, std: of each channel, in the file's order and on the scale of `top`. The mean is
        subtracted, and the result is divided by the deviation.
    """

    colours: Colours | None = None
    top: float | None = None
    mean: Channels | None = None
    std: Channels | None = None

    @property
    def any(self) -> bool:
        """Whether the user says anything."""
        return self != AS_USUAL

    def scale(self, usual: Scale, dtype: str) -> Scale:
        """Return the scale that the user chose, with the usual values where nothing was chosen.

        dtype: numpy's name of the type that the file takes.
        Raises TaskError for a mean or deviation with a file that takes integers.
        """
        if (self.mean, self.std) == (None, None):
            return self._without_mean(usual, dtype)
        if whole_numbers(dtype):
            raise TaskError(
                f"Expected no --mean and no --std for a file that takes {dtype}, got them; leave "
                "them out: its pixels are whole numbers, 0 to 255 or to --top."
            )
        mean, std = self.mean or TO_ONE.mean, self.std or TO_ONE.std
        likely_top = 255.0 if max(mean + std) > OF_255 else 1.0
        return Scale(self.top or likely_top, mean, std)

    def _without_mean(self, usual: Scale, dtype: str) -> Scale:
        """Return the scale if the user says neither a mean nor a deviation."""
        if self.top is not None:
            return Scale(self.top)
        if whole_numbers(dtype):
            return Scale(255.0)
        return usual


AS_USUAL = PixelChoices()


@dataclass(frozen=True)
class Scale:
    """Turns levels from 0 to 255 into the values that a file takes.

    top: the value of white, where black is 0.
    mean, std: of each channel, in the file's order and on the scale of `top`.
    """

    top: float = 1.0
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)

    @property
    def moves(self) -> bool:
        """Whether there is a mean or a deviation that changes the values."""
        return any(self.mean) or set(self.std) != {1.0}

    def ordered(self, colours: Colours) -> Scale:
        """Return this scale, whose `mean` and `std` are in the order of RGB, for a file of another
        order."""
        if colours == "rgb":
            return self
        red_mean, green_mean, blue_mean = self.mean
        red_std, green_std, blue_std = self.std
        mean, std = (blue_mean, green_mean, red_mean), (blue_std, green_std, red_std)
        return Scale(self.top, mean, std)

    def __call__(self, levels: NDArray[Any]) -> NDArray[np.float32]:
        """Return the values float32[..., 3] of levels [..., 3] in the file's order of colours."""
        pixels = levels.astype(np.float32)
        if not self.moves:
            return np.asarray(pixels * np.float32(self.top / 255))
        scaled = pixels / np.float32(255) * np.float32(self.top)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return np.asarray((scaled - mean) / std)


TO_ONE = Scale()
"""Pixels from 0 to 1."""

IMAGENET = Scale(1.0, IMAGENET_MEAN, IMAGENET_STD)

AROUND_ZERO = Scale(1.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Pixels from -1 to 1."""


def scale_between(low: float, high: float) -> Scale | None:
    """Return the usual scale whose black and white are `low` and `high`, up to two of 256 levels;
    None if no usual scale fits.

    >>> scale_between(-1.0, 0.9921875).std
    (0.5, 0.5, 0.5)
    """
    tolerance = 2 * (high - low) / 255
    for scale in (TO_ONE, AROUND_ZERO, Scale(255.0)):
        black, white = scale(np.array([[0] * 3, [255] * 3]))[:, 0]
        if max(abs(black - low), abs(white - high)) <= tolerance:
            return scale
    return None


@dataclass(frozen=True)
class Pixels:
    """How a file takes images.

    colours: the order of the colour channels.
    scale: turns levels from 0 to 255 into the values that the file takes.
    layout: the order of the input's axes.
    dtype: numpy's name of the input's type.
    """

    colours: Colours = "rgb"
    scale: Scale = TO_ONE
    layout: Layout = "nchw"
    dtype: str = "float32"

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Return RGB images uint8[n, h, w, 3] in the form that the file takes."""
        scaled = in_type(self.scale(in_order(images, self.colours)), self.dtype)
        if self.layout == "nchw":
            scaled = scaled.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(scaled)


@dataclass(frozen=True)
class ClassifierPixels:
    """Turns an RGB image into [3, height, width] as a classifier takes it.

    The shorter side is scaled to `resize` times the crop and the centre is cropped; then colours
    and scale are applied.

    size: the crop, which is the size of the input.
    colours: the order of the colour channels.
    scale: turns levels from 0 to 255 into the values that the file takes.
    dtype: numpy's name of the input's type.
    """

    size: Size
    colours: Colours = "rgb"
    scale: Scale = IMAGENET
    dtype: str = "float32"
    resize: float = RESIZE

    def __call__(self, image: Any) -> NDArray[Any]:
        height, width = sides(self.size)
        covered = round(height * self.resize), round(width * self.resize)
        whole = centre_crop(self.size, resize=covered, mean=(0.0,) * 3, std=(1.0,) * 3)(image)
        # `centre_crop` has divided the levels by 255, so they are restored to whole numbers.
        levels = np.rint(whole * 255).transpose(1, 2, 0)
        scaled = self.scale(in_order(levels, self.colours))
        return np.ascontiguousarray(in_type(scaled.transpose(2, 0, 1), self.dtype))


RGB_TO_ONE = Pixels()
"""The form that ultralytics' models take."""


def channels(name: str, given: str | float | Sequence[float] | None) -> Channels | None:
    """Return three numbers, one for each channel; None for None.

    name: the option that messages name; one with "std" in it must be above 0.
    given: numbers, text with commas, or one number for all channels.
    Raises TaskError for anything else.

    >>> channels("--mean", "0.5"), channels("--std", "58.4,57.1,57.4")
    ((0.5, 0.5, 0.5), (58.4, 57.1, 57.4))
    """
    if given is None:
        return None
    numbers = np.zeros(0)
    with suppress(ValueError):
        listed = given.split(",") if isinstance(given, str) else given
        numbers = np.array(listed, np.float64).ravel()
    is_std = "std" in name
    is_possible = numbers.size in (1, 3) and bool(np.isfinite(numbers).all())
    if not is_possible or (is_std and numbers.min() <= 0):
        raise TaskError(
            f"Expected {name} to be one number{' above 0' * is_std} or three with commas, one of "
            f"each channel, got {given}; write it as 0.485,0.456,0.406 or, of pixels up to 255, as "
            "123.7."
        )
    first, second, third = np.broadcast_to(numbers, 3).tolist()
    return first, second, third


SAY_OTHERWISE = "Where the model was trained with others: --colours, --top, --mean and --std."


def pixels_in_words(colours: Colours, scale: Scale) -> str:
    """Return a sentence on the pixels that a file is given.

    >>> pixels_in_words("bgr", Scale(255.0))
    'It was given pixels in BGR from 0 to 255.'
    >>> pixels_in_words("rgb", IMAGENET)
    'It was given pixels in RGB from 0 to 1, less mean 0.485,0.456,0.406, by std 0.229,0.224,0.225.'
    """
    mean, std = (",".join(map("{:g}".format, values)) for values in (scale.mean, scale.std))
    moved = f", less mean {mean}, by std {std}" * scale.moves
    return f"It was given pixels in {colours.upper()} from 0 to {scale.top:g}{moved}."


def in_order(pixels: NDArray[Any], colours: Colours) -> NDArray[Any]:
    """Return RGB pixels [..., 3] with their colours in this order."""
    if colours == "rgb":
        return pixels
    return pixels[..., ::-1]


def in_type(pixels: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Return pixels in the type of a file's input, rounded if that is an integer type."""
    if whole_numbers(dtype):
        pixels = np.rint(pixels)
    return pixels.astype(dtype)


def whole_numbers(dtype: str) -> bool:
    """Return whether this is the name of an integer type."""
    return np.dtype(dtype).kind in "iu"
