"""Translates operators with a weight."""

from __future__ import annotations

from typing import Any

import numpy as np

from sensitivity.tflite.model import Operator
from sensitivity.tflite.translation import Translation

CHANNELS_IN_FRONT = (0, 3, 1, 2)
"""Permutation of [out, height, width, in] to the order of ONNX."""

Sides = tuple[int, int]
"""Two numbers, for height and for width."""


def conv_2d(made: Translation, operator: Operator) -> None:
    """Translate CONV_2D, whose weight is [out, height, width, in of one group]."""
    image, weight = (made.tensor(index) for index in operator.inputs[:2])
    groups = image.shape[3] // weight.shape[3]
    kernel = made.weight(operator.inputs[1], CHANNELS_IN_FRONT)
    _convolution(made, operator, kernel, groups)


def depthwise_conv_2d(made: Translation, operator: Operator) -> None:
    """Translate DEPTHWISE_CONV_2D, whose weight is [1, height, width, out], and in which each
    channel is a group."""
    kernel = made.weight(operator.inputs[1], (3, 0, 1, 2))
    _convolution(made, operator, kernel, made.tensor(operator.inputs[0]).shape[3])


def _convolution(made: Translation, operator: Operator, kernel: str, groups: int) -> None:
    sides = made.tensor(operator.inputs[1]).shape[1:3]
    strides, dilations = _strides(operator), _dilations(operator)
    pads = pads_of(made, operator, sides, strides, dilations)
    value = made.emit(
        "Conv",
        [made.take(operator.inputs[0], "first"), kernel, *_bias(made, operator)],
        name_of(made, operator),
        group=groups,
        kernel_shape=sides,
        strides=strides,
        dilations=dilations,
        pads=pads,
    )
    made.give(operator, value, "first")


def transpose_conv(made: Translation, operator: Operator) -> None:
    """Translate TRANSPOSE_CONV, whose inputs are the sides of the output, the weight, the image and
    perhaps a bias."""
    _, weight, image, *_ = operator.inputs
    kernel = made.weight(weight, (3, 0, 1, 2))  # [in, out, height, width]
    sides, strides = made.tensor(weight).shape[1:3], _strides(operator)
    given, wanted = made.tensor(image).shape[1:3], made.tensor(operator.outputs[0]).shape[1:3]
    cut, more = _cut(given, wanted, sides, strides, operator.options["padding"])
    value = made.emit(
        "ConvTranspose",
        [made.take(image, "first"), kernel, *_bias(made, operator, at=3)],
        name_of(made, operator),
        kernel_shape=sides,
        strides=strides,
        pads=cut,
        output_padding=more,
    )
    made.give(operator, value, "first")


def _cut(
    given: Any, wanted: Any, sides: Any, strides: Sides, padding: str
) -> tuple[list[int], list[int]]:
    """Return what is cut off the sides of a transposed convolution, and what is added at their
    ends."""
    before, after, more = [], [], []
    for size, out, side, stride in zip(given, wanted, sides, strides, strict=True):
        over = (size - 1) * stride + side - out
        first = max(over, 0) // 2 if padding == "SAME" else 0
        before.append(first)
        after.append(max(over - first, 0))
        more.append(max(first - over, 0))
    return [*before, *after], more


def fully_connected(made: Translation, operator: Operator) -> None:
    """Translate FULLY_CONNECTED. The input's last axes are flattened to the rows that the weight
    takes."""
    image, weight, *_ = operator.inputs
    outputs, inputs = made.tensor(weight).shape
    shape = made.tensor(image).shape
    name = name_of(made, operator)
    value = made.take(image)
    if len(shape) != 2 or shape[1] != inputs:
        flat = made.number(np.array([-1, inputs]), f"{name}/flat")
        value = made.emit("Reshape", [value, flat], f"{name}/flatten")
    kernel = made.weight(weight, (0, 1))
    value = made.emit("Gemm", [value, kernel, *_bias(made, operator)], name, transB=1)
    wanted = made.tensor(operator.outputs[0]).shape
    if len(wanted) != 2:
        sides = made.number(np.array([*wanted[:-1], outputs]), f"{name}/sides")
        value = made.emit("Reshape", [value, sides], f"{name}/unflatten")
    made.give(operator, value)


def batch_matmul(made: Translation, operator: Operator) -> None:
    """Translate BATCH_MATMUL of two tensors, whose last two axes may be swapped."""
    values = []
    for at, option in enumerate(("adjX", "adjY")):
        value = made.take(operator.inputs[at])
        if operator.options[option]:
            rank = len(made.tensor(operator.inputs[at]).shape)
            perm = [*range(rank - 2), rank - 1, rank - 2]
            value = made.emit("Transpose", [value], f"{name_of(made, operator)}/{at}", perm=perm)
        values.append(value)
    made.give(operator, made.emit("MatMul", values, name_of(made, operator)))


def name_of(made: Translation, operator: Operator) -> str:
    """Return the name of an operator: that of its first output, which converters use too."""
    return made.tensor(operator.outputs[0]).name


def pads_of(
    made: Translation, operator: Operator, sides: Any, strides: Sides, dilations: Sides = (1, 1)
) -> list[int]:
    """Return the padding of a window: in front of height and width, then behind them."""
    if operator.options["padding"] != "SAME":
        return [0, 0, 0, 0]
    given = made.tensor(operator.inputs[0]).shape[1:3]
    before, after = [], []
    for size, side, stride, dilation in zip(given, sides, strides, dilations, strict=True):
        last = (-(-size // stride) - 1) * stride
        total = max(last + (side - 1) * dilation + 1 - size, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return [*before, *after]


def _bias(made: Translation, operator: Operator, at: int = 2) -> list[str]:
    given = operator.inputs[at : at + 1]
    return [made.take(index) for index in given if index >= 0]


def _strides(operator: Operator) -> Sides:
    return operator.options["strideH"], operator.options["strideW"]


def _dilations(operator: Operator) -> Sides:
    return operator.options["dilationHFactor"], operator.options["dilationWFactor"]
