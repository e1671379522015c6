"""The inputs that the kernel of an ONNX operation sees at positions of its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.onnx_graph import qdq

Array = NDArray[Any]


@dataclass(frozen=True)
class Kernel:
    """How an operation sees its input.

    axis: axis of the output channels in the weight.
    groups: groups of channels.
    kernel, strides, dilations: of a convolution over images; empty for a product.
    pads: zeros before and behind each axis of the image.
    """

    axis: int
    groups: int = 1
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[tuple[int, int], ...] = ()

    def seen(self, given: Array, places: NDArray[np.int64], shape: Sequence[int]) -> Array:
        """Return the inputs at these positions, float32[n, groups, inputs].

        given: input of the operation.
        places: positions of the output, counted over all but its channels.
        shape: sides of the output without its channels.
        """
        if not self.kernel:
            return given.reshape(-1, 1, given.shape[-1])[places].astype(np.float32)
        padded = np.pad(given, [(0, 0), (0, 0), *self.pads])
        sample, *at = np.unravel_index(places, tuple(shape))
        rows, columns = map(self._along, range(2), at)
        found = padded[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        by_channel = np.moveaxis(found, -1, 1)
        return by_channel.reshape(len(places), self.groups, -1).astype(np.float32)

    def _along(self, axis: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices into the padded image that these positions read along an axis."""
        steps = np.arange(self.kernel[axis]) * self.dilations[axis]
        return np.asarray(places[:, None] * self.strides[axis] + steps)


def kernel_of(node: ir.Node, weight: Sequence[int]) -> Kernel | None:
    """Return how an operation with a weight of this shape sees its input.

    Returns None for transposed convolutions, for other convolutions than over images, for those
    whose padding follows from the size of the image, for products of more than two axes, and for a
    Gemm that turns its input or scales the product.
    """
    axis = qdq.output_axis(node, len(weight))
    if node.op_type == "Conv":
        return _convolution(node, tuple(weight), axis)
    is_turned = node.attributes.get_int("transA", 0) != 0
    is_scaled = node.attributes.get_float("alpha", 1.0) != 1.0
    is_product = node.op_type in ("Gemm", "MatMul") and len(weight) == 2
    return Kernel(axis) if is_product and not is_turned and not is_scaled else None


def _convolution(node: ir.Node, weight: tuple[int, ...], axis: int) -> Kernel | None:
    is_padded_by_size = node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
    if len(weight) != 4 or is_padded_by_size:
        return None
    top, left, bottom, right = node.attributes.get_ints("pads", (0, 0, 0, 0))
    return Kernel(
        axis,
        node.attributes.get_int("group", 1),
        weight[2:],
        tuple(node.attributes.get_ints("strides", (1, 1))),
        tuple(node.attributes.get_ints("dilations", (1, 1))),
        ((top, bottom), (left, right)),
    )
