"""What an ONNX file takes: the types, shapes and integer levels of its inputs, and its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sensitivity.errors import TaskError
from sensitivity.tasks.images import Size, sides
from sensitivity.tasks.onnx_arrays import CODES, Codes, Port
from sensitivity.tasks.onnx_pixels import Layout, Scale, scale_between

DTYPES = (
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)


@dataclass(frozen=True)
class ImageInput:
    """The image input of a file.

    size: (height, width) in pixels.
    dtype: numpy's name of the input's type.
    stored: the pixels that the levels of a quantized input represent; None if the file does not
        say.
    """

    size: tuple[int, int]
    layout: Layout
    dtype: str = "float32"
    stored: Scale | None = None


class File(Protocol):
    """What is read of an ONNX file. Its ports are those of an `onnxruntime.InferenceSession`."""

    path: Path

    @property
    def metadata(self) -> Mapping[str, str]: ...

    def get_inputs(self) -> Sequence[Any]: ...

    def get_outputs(self) -> Sequence[Any]: ...

    def run(self, output_names: None, input_feed: Mapping[str, Any]) -> Sequence[Any]: ...


def ports(model: File) -> list[Port]:
    """Return the inputs of the file.

    Raises TaskError for a type that numpy does not have.
    """
    return [
        Port(item.name, _dtype(model, item), sides_of(item.shape), _codes(model, item.name))
        for item in model.get_inputs()
    ]


def _codes(model: File, name: str) -> Codes | None:
    """Return the integer levels of an input as the file's metadata describes them.

    Returns None if it does not.
    """
    text = model.metadata.get(CODES.format(name))
    if text is None:
        return None
    dtype, scale, zero_point = text.split()
    return Codes(dtype, float(scale), int(zero_point))


def _dtype(model: File, item: Any) -> str:
    name = str(item.type).removeprefix("tensor(").removesuffix(")")
    name = {"float": "float32", "double": "float64"}.get(name, name)
    if name not in DTYPES:
        raise TaskError(
            f"Expected inputs of numbers that numpy has, got {item.type} for {item.name} of "
            f"{model.path.name}; write a task file, see docs/onnx.md."
        )
    return name


def sides_of(shape: Sequence[Any]) -> tuple[int | None, ...]:
    """Return the sides of a shape; None for one that the file leaves open."""
    return tuple(side if isinstance(side, int) else None for side in shape)


def image_input(model: File, size: Size | None = None) -> ImageInput:
    """Return the file's input of colour images.

    size: size of the images, for a file that leaves their sides open.
    Raises TaskError if there is no such input, or if its size is unknown.
    """
    all_ports = ports(model)
    layout = image_layout(all_ports)
    listed = ", ".join(f"{item.name} {list(item.shape)}" for item in model.get_inputs())
    if layout is None:
        raise TaskError(
            f"Expected {model.path.name} to have one input of colour images, "
            f"[n, 3, height, width] or [n, height, width, 3], got {listed}; give its inputs as "
            "they are in an .npz, or write a task file, see docs/onnx.md."
        )
    shape = all_ports[0].shape
    height, width = shape[2:] if layout == "nchw" else shape[1:3]
    has_open_side = height is None or width is None
    if has_open_side and size is not None:
        height, width = sides(size)
    if height is None or width is None:
        raise TaskError(
            f"Expected to know the size of the images that {model.path.name} takes, got {listed}, "
            "whose sides are open; give it with --imgsz, as in 640 or 384,640 (height, width)."
        )
    return ImageInput(
        (height, width), layout, all_ports[0].dtype, _scale_of_codes(all_ports[0].codes)
    )


def _scale_of_codes(codes: Codes | None) -> Scale | None:
    """Return the pixels that 8-bit levels represent; None for a wider type or unusual pixels."""
    if codes is None or np.dtype(codes.dtype).itemsize > 1:
        return None
    return scale_between(*codes.ends)


def image_layout(inputs: Sequence[Port]) -> Layout | None:
    """Return the position of the colours in the only input of a file.

    Returns None if the file takes no colour images.
    """
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        return None
    _, first, _, last = inputs[0].shape
    if first == 3:
        return "nchw"
    return "nhwc" if last == 3 else None
