"""Finds the inputs that an ONNX operation reads for some positions of its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.onnx_graph import qdq
from sensitivity.repairs.windows import Indices, Window

Array = NDArray[Any]


@dataclass(frozen=True)
class Kernel:
    """How an operation reads its input.

    axis: axis of the output channels in the weight.
    groups: groups of channels.
    window: of a convolution over images; None for a matrix product.
    pads: zeros before and after each axis of the image.
    """

    axis: int
    groups: int = 1
    window: Window | None = None
    pads: tuple[tuple[int, int], ...] = ()

    def inputs_of(self, positions: Indices, inputs: Array, sides: tuple[int, ...]) -> Array:
        """Return the inputs that these positions of the output depend on, float32[n, groups,
        inputs].

        positions: positions of the output, counted over all its axes but the channels.
        inputs: the input of the operation.
        sides: height and width of the output of a convolution; unused for a product.
        """
        if self.window is None:
            return inputs.reshape(-1, 1, inputs.shape[-1])[positions].astype(np.float32)
        padded = np.pad(inputs, [(0, 0), (0, 0), *self.pads])
        sample, rows, columns = self.window.indices(positions, sides)
        patches = np.moveaxis(padded[sample, :, rows, columns], -1, 1)
        return patches.reshape(len(positions), self.groups, -1).astype(np.float32)


def kernel_of(node: ir.Node, weight: Sequence[int]) -> Kernel | None:
    """Return how an operation with a weight of this shape reads its input.

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
        Window(
            weight[2:],
            tuple(node.attributes.get_ints("strides", (1, 1))),
            tuple(node.attributes.get_ints("dilations", (1, 1))),
        ),
        ((top, bottom), (left, right)),
    )
