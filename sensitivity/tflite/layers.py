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


def conv_2d(translation: Translation, operator: Operator) -> None:
    """Translate CONV_2D, whose weight is [out, height, width, in of one group]."""
    image, weight = (translation.tensor(index) for index in operator.inputs[:2])
    groups = image.shape[3] // weight.shape[3]
    kernel = translation.weight(operator.inputs[1], CHANNELS_IN_FRONT)
    _convolution(translation, operator, kernel, groups)


def depthwise_conv_2d(translation: Translation, operator: Operator) -> None:
    """Translate DEPTHWISE_CONV_2D, whose weight is [1, height, width, out], and in which each
    channel is a group."""
    kernel = translation.weight(operator.inputs[1], (3, 0, 1, 2))
    _convolution(translation, operator, kernel, translation.tensor(operator.inputs[0]).shape[3])


def _convolution(translation: Translation, operator: Operator, kernel: str, groups: int) -> None:
    """Add a Conv with this weight and this number of groups."""
    sides = translation.tensor(operator.inputs[1]).shape[1:3]
    strides, dilations = _strides(operator), _dilations(operator)
    pads = pads_of(translation, operator, sides, strides, dilations)
    value = translation.emit(
        "Conv",
        [translation.take(operator.inputs[0], "first"), kernel, *_bias(translation, operator)],
        name_of(translation, operator),
        group=groups,
        kernel_shape=sides,
        strides=strides,
        dilations=dilations,
        pads=pads,
    )
    translation.give(operator, value, "first")


def transpose_conv(translation: Translation, operator: Operator) -> None:
    """Translate TRANSPOSE_CONV, whose inputs are the sides of the output, the weight, the image and
    perhaps a bias."""
    _, weight, image, *_ = operator.inputs
    kernel = translation.weight(weight, (3, 0, 1, 2))  # [in, out, height, width]
    sides, strides = translation.tensor(weight).shape[1:3], _strides(operator)
    given, wanted = (
        translation.tensor(image).shape[1:3],
        translation.tensor(operator.outputs[0]).shape[1:3],
    )
    cut, more = _cut(given, wanted, sides, strides, operator.options["padding"])
    value = translation.emit(
        "ConvTranspose",
        [translation.take(image, "first"), kernel, *_bias(translation, operator, position=3)],
        name_of(translation, operator),
        kernel_shape=sides,
        strides=strides,
        pads=cut,
        output_padding=more,
    )
    translation.give(operator, value, "first")


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


def fully_connected(translation: Translation, operator: Operator) -> None:
    """Translate FULLY_CONNECTED. The input's last axes are flattened to the rows that the weight
    takes."""
    image, weight, *_ = operator.inputs
    outputs, inputs = translation.tensor(weight).shape
    shape = translation.tensor(image).shape
    name = name_of(translation, operator)
    value = translation.take(image)
    if len(shape) != 2 or shape[1] != inputs:
        flat = translation.number(np.array([-1, inputs]), f"{name}/flat")
        value = translation.emit("Reshape", [value, flat], f"{name}/flatten")
    kernel = translation.weight(weight, (0, 1))
    value = translation.emit("Gemm", [value, kernel, *_bias(translation, operator)], name, transB=1)
    wanted = translation.tensor(operator.outputs[0]).shape
    if len(wanted) != 2:
        sides = translation.number(np.array([*wanted[:-1], outputs]), f"{name}/sides")
        value = translation.emit("Reshape", [value, sides], f"{name}/unflatten")
    translation.give(operator, value)


def batch_matmul(translation: Translation, operator: Operator) -> None:
    """Translate BATCH_MATMUL of two tensors, whose last two axes may be swapped."""
    values = []
    for place, option in enumerate(("adjX", "adjY")):
        value = translation.take(operator.inputs[place])
        if operator.options[option]:
            rank = len(translation.tensor(operator.inputs[place]).shape)
            perm = [*range(rank - 2), rank - 1, rank - 2]
            value = translation.emit(
                "Transpose", [value], f"{name_of(translation, operator)}/{place}", perm=perm
            )
        values.append(value)
    translation.give(operator, translation.emit("MatMul", values, name_of(translation, operator)))


def name_of(translation: Translation, operator: Operator) -> str:
    """Return the name of an operator: that of its first output, which converters use too."""
    return translation.tensor(operator.outputs[0]).name


def pads_of(
    translation: Translation,
    operator: Operator,
    sides: Any,
    strides: Sides,
    dilations: Sides = (1, 1),
) -> list[int]:
    """Return the padding of a window: before height and width, then after them."""
    if operator.options["padding"] != "SAME":
        return [0, 0, 0, 0]
    given = translation.tensor(operator.inputs[0]).shape[1:3]
    before, after = [], []
    for size, side, stride, dilation in zip(given, sides, strides, dilations, strict=True):
        last = (-(-size // stride) - 1) * stride
        total = max(last + (side - 1) * dilation + 1 - size, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return [*before, *after]


def _bias(translation: Translation, operator: Operator, position: int = 2) -> list[str]:
    given = operator.inputs[position : position + 1]
    return [translation.take(index) for index in given if index >= 0]


def _strides(operator: Operator) -> Sides:
    return operator.options["strideH"], operator.options["strideW"]


def _dilations(operator: Operator) -> Sides:
    return operator.options["dilationHFactor"], operator.options["dilationWFactor"]
