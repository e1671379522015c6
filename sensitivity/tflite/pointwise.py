"""Translates operators that compute each number by itself, or from two tensors number by number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sensitivity.tflite.layers import name_of
from sensitivity.tflite.model import Operator
from sensitivity.tflite.translation import Layout, Translation

Function = Callable[[Translation, Operator], None]
"""Function that adds the translation of an operator to a graph."""


def unary(kind: str, **attributes: Any) -> Function:
    """Return the translation to an operator of ONNX that takes the tensor in any layout.

    kind: name of the ONNX operator.
    attributes: attributes of the ONNX operator.
    """

    def translate(translation: Translation, operator: Operator) -> None:
        layout = translation.layout(operator.inputs[0])
        value = translation.take(operator.inputs[0], layout)
        translation.give(
            operator,
            translation.emit(kind, [value], name_of(translation, operator), **attributes),
            layout,
        )

    return translate


def clamp(word: str) -> Function:
    """Return the translation of an activation that is an operator of its own.

    word: name of the activation when it is fused.
    """

    def translate(translation: Translation, operator: Operator) -> None:
        layout = translation.layout(operator.inputs[0])
        value = translation.take(operator.inputs[0], layout)
        translation.give(
            operator, translation.clamped(value, word, name_of(translation, operator)), layout
        )

    return translate


def binary(kind: str) -> Function:
    """Return the translation to an operator of ONNX on two tensors, which broadcast.

    kind: name of the ONNX operator.
    """

    def translate(translation: Translation, operator: Operator) -> None:
        values, layout = in_one_layout(translation, operator)
        translation.give(
            operator, translation.emit(kind, values, name_of(translation, operator)), layout
        )

    return translate


def in_one_layout(translation: Translation, operator: Operator) -> tuple[list[str], Layout]:
    """Return the inputs in one layout, and that layout.

    Channels come first if some input is held so; the others are converted.
    """
    if "first" not in map(translation.layout, operator.inputs):
        return list(map(translation.take, operator.inputs)), "last"
    rank = max(len(translation.tensor(index).shape) for index in operator.inputs)
    name = name_of(translation, operator)
    return [
        _with_channels_first(translation, index, rank, name) for index in operator.inputs
    ], "first"


def _with_channels_first(translation: Translation, index: int, rank: int, name: str) -> str:
    """Return a tensor with its channels first.

    rank: a tensor of lower rank is expanded to it, such as [c] to [1, c, 1, 1].
    """
    shape = translation.tensor(index).shape
    missing = rank - len(shape)
    if not shape or not missing:
        return translation.take(index, "first")
    value = translation.take(index)
    full = (*(1,) * missing, *shape)
    sides = [full[0], full[-1], *full[1:-1]]
    if len(shape) > 1:
        perm = [len(shape) - 1, *range(len(shape) - 1)]
        value = translation.emit("Transpose", [value], f"{name}/turned", perm=perm)
    return translation.emit(
        "Reshape", [value, translation.number(np.array(sides), f"{name}/sides")], name
    )


def leaky_relu(translation: Translation, operator: Operator) -> None:
    """Translate LEAKY_RELU, whose slope below zero is an attribute."""
    unary("LeakyRelu", alpha=operator.options["alpha"])(translation, operator)


def gelu(translation: Translation, operator: Operator) -> None:
    """Translate GELU: the exact one, x * (1 + erf(x / sqrt 2)) / 2, or the approximation by
    tanh."""
    layout = translation.layout(operator.inputs[0])
    value, name = translation.take(operator.inputs[0], layout), name_of(translation, operator)

    def times(one: str, factor: float, what: str) -> str:
        return translation.emit(
            "Mul", [one, translation.number(np.float32(factor), what)], f"{name}/{what}"
        )

    inner = value
    if operator.options["approximate"]:
        cube = translation.emit(
            "Mul", [translation.emit("Mul", [value, value], f"{name}/square"), value], name
        )
        inner = translation.emit("Add", [value, times(cube, 0.044715, "cube")], f"{name}/sum")
        turned = translation.emit(
            "Tanh", [times(inner, (2 / np.pi) ** 0.5, "scaled")], f"{name}/tanh"
        )
    else:
        turned = translation.emit("Erf", [times(inner, 0.5**0.5, "scaled")], f"{name}/erf")
    one = translation.number(np.float32(1), "one")
    weight = times(translation.emit("Add", [turned, one], f"{name}/plus"), 0.5, "half")
    translation.give(operator, translation.emit("Mul", [value, weight], name), layout)


def prelu(translation: Translation, operator: Operator) -> None:
    """Translate PRELU, whose slopes below zero are a tensor, usually one per channel."""
    values, layout = in_one_layout(translation, operator)
    translation.give(
        operator, translation.emit("PRelu", values, name_of(translation, operator)), layout
    )


def squared(translation: Translation, operator: Operator) -> None:
    """Translate SQUARE to a product, since ONNX has no operator for it."""
    layout = translation.layout(operator.inputs[0])
    value = translation.take(operator.inputs[0], layout)
    translation.give(
        operator, translation.emit("Mul", [value, value], name_of(translation, operator)), layout
    )


def squared_difference(translation: Translation, operator: Operator) -> None:
    """Translate SQUARED_DIFFERENCE to the square of a difference."""
    values, layout = in_one_layout(translation, operator)
    name = name_of(translation, operator)
    apart = translation.emit("Sub", values, f"{name}/Sub")
    translation.give(operator, translation.emit("Mul", [apart, apart], name), layout)


def rsqrt(translation: Translation, operator: Operator) -> None:
    """Translate RSQRT to the reciprocal of a root."""
    layout = translation.layout(operator.inputs[0])
    value, name = translation.take(operator.inputs[0], layout), name_of(translation, operator)
    root = translation.emit("Sqrt", [value], f"{name}/Sqrt")
    translation.give(operator, translation.emit("Reciprocal", [root], name), layout)


def softmax(translation: Translation, operator: Operator) -> None:
    """Translate SOFTMAX over the last axis of the input times beta."""
    value, name = translation.take(operator.inputs[0]), name_of(translation, operator)
    beta = operator.options["beta"]
    if beta != 1:
        scale = translation.number(np.float32(beta), f"{name}/beta")
        value = translation.emit("Mul", [value, scale], f"{name}/Mul")
    translation.give(operator, translation.emit("Softmax", [value], name, axis=-1))


def log_softmax(translation: Translation, operator: Operator) -> None:
    """Translate LOG_SOFTMAX over the last axis."""
    value = translation.take(operator.inputs[0])
    translation.give(
        operator, translation.emit("LogSoftmax", [value], name_of(translation, operator), axis=-1)
    )


def requantized(translation: Translation, operator: Operator) -> None:
    """Translate QUANTIZE and DEQUANTIZE. The real numbers stay, and only the grid that they are
    rounded to changes."""
    index, output = operator.inputs[0], operator.outputs[0]
    if translation.tensor(index).values is not None and translation.keeps_grid(operator):
        translation.stand_for(output, index)
        return
    layout = translation.layout(index)
    value = translation.take(index, layout)
    if translation.keeps_grid(operator):
        translation.hold(output, value, layout)
    else:
        translation.give(operator, value, layout)
