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

    def translate(made: Translation, operator: Operator) -> None:
        layout = made.layout(operator.inputs[0])
        value = made.take(operator.inputs[0], layout)
        made.give(operator, made.emit(kind, [value], name_of(made, operator), **attributes), layout)

    return translate


def clamp(word: str) -> Function:
    """Return the translation of an activation that is an operator of its own.

    word: name of the activation when it is fused.
    """

    def translate(made: Translation, operator: Operator) -> None:
        layout = made.layout(operator.inputs[0])
        value = made.take(operator.inputs[0], layout)
        made.give(operator, made.clamped(value, word, name_of(made, operator)), layout)

    return translate


def binary(kind: str) -> Function:
    """Return the translation to an operator of ONNX on two tensors, which broadcast.

    kind: name of the ONNX operator.
    """

    def translate(made: Translation, operator: Operator) -> None:
        values, layout = in_one_layout(made, operator)
        made.give(operator, made.emit(kind, values, name_of(made, operator)), layout)

    return translate


def in_one_layout(made: Translation, operator: Operator) -> tuple[list[str], Layout]:
    """Return the inputs in one layout, and that layout.

    Channels come first if some input is held so; the others are converted.
    """
    if "first" not in map(made.layout, operator.inputs):
        return list(map(made.take, operator.inputs)), "last"
    rank = max(len(made.tensor(index).shape) for index in operator.inputs)
    name = name_of(made, operator)
    return [_with_channels_first(made, index, rank, name) for index in operator.inputs], "first"


def _with_channels_first(made: Translation, index: int, rank: int, name: str) -> str:
    """Return a tensor with its channels first.

    rank: a tensor of lower rank is expanded to it, such as [c] to [1, c, 1, 1].
    """
    shape = made.tensor(index).shape
    missing = rank - len(shape)
    if not shape or not missing:
        return made.take(index, "first")
    value = made.take(index)
    full = (*(1,) * missing, *shape)
    sides = [full[0], full[-1], *full[1:-1]]
    if len(shape) > 1:
        perm = [len(shape) - 1, *range(len(shape) - 1)]
        value = made.emit("Transpose", [value], f"{name}/turned", perm=perm)
    return made.emit("Reshape", [value, made.number(np.array(sides), f"{name}/sides")], name)


def leaky_relu(made: Translation, operator: Operator) -> None:
    """Translate LEAKY_RELU, whose slope below zero is an attribute."""
    unary("LeakyRelu", alpha=operator.options["alpha"])(made, operator)


def gelu(made: Translation, operator: Operator) -> None:
    """Translate GELU: the exact one, x * (1 + erf(x / sqrt 2)) / 2, or the approximation by
    tanh."""
    layout = made.layout(operator.inputs[0])
    value, name = made.take(operator.inputs[0], layout), name_of(made, operator)

    def times(one: str, factor: float, what: str) -> str:
        return made.emit("Mul", [one, made.number(np.float32(factor), what)], f"{name}/{what}")

    inner = value
    if operator.options["approximate"]:
        cube = made.emit("Mul", [made.emit("Mul", [value, value], f"{name}/square"), value], name)
        inner = made.emit("Add", [value, times(cube, 0.044715, "cube")], f"{name}/sum")
        turned = made.emit("Tanh", [times(inner, (2 / np.pi) ** 0.5, "scaled")], f"{name}/tanh")
    else:
        turned = made.emit("Erf", [times(inner, 0.5**0.5, "scaled")], f"{name}/erf")
    one = made.number(np.float32(1), "one")
    weight = times(made.emit("Add", [turned, one], f"{name}/plus"), 0.5, "half")
    made.give(operator, made.emit("Mul", [value, weight], name), layout)


def prelu(made: Translation, operator: Operator) -> None:
    """Translate PRELU, whose slopes below zero are a tensor, usually one per channel."""
    values, layout = in_one_layout(made, operator)
    made.give(operator, made.emit("PRelu", values, name_of(made, operator)), layout)


def squared(made: Translation, operator: Operator) -> None:
    """Translate SQUARE to a product, since ONNX has no operator for it."""
    layout = made.layout(operator.inputs[0])
    value = made.take(operator.inputs[0], layout)
    made.give(operator, made.emit("Mul", [value, value], name_of(made, operator)), layout)


def squared_difference(made: Translation, operator: Operator) -> None:
    """Translate SQUARED_DIFFERENCE to the square of a difference."""
    values, layout = in_one_layout(made, operator)
    name = name_of(made, operator)
    apart = made.emit("Sub", values, f"{name}/Sub")
    made.give(operator, made.emit("Mul", [apart, apart], name), layout)


def rsqrt(made: Translation, operator: Operator) -> None:
    """Translate RSQRT to the reciprocal of a root."""
    layout = made.layout(operator.inputs[0])
    value, name = made.take(operator.inputs[0], layout), name_of(made, operator)
    root = made.emit("Sqrt", [value], f"{name}/Sqrt")
    made.give(operator, made.emit("Reciprocal", [root], name), layout)


def softmax(made: Translation, operator: Operator) -> None:
    """Translate SOFTMAX over the last axis of the input times beta."""
    value, name = made.take(operator.inputs[0]), name_of(made, operator)
    beta = operator.options["beta"]
    if beta != 1:
        scale = made.number(np.float32(beta), f"{name}/beta")
        value = made.emit("Mul", [value, scale], f"{name}/Mul")
    made.give(operator, made.emit("Softmax", [value], name, axis=-1))


def log_softmax(made: Translation, operator: Operator) -> None:
    """Translate LOG_SOFTMAX over the last axis."""
    value = made.take(operator.inputs[0])
    made.give(operator, made.emit("LogSoftmax", [value], name_of(made, operator), axis=-1))


def requantized(made: Translation, operator: Operator) -> None:
    """Translate QUANTIZE and DEQUANTIZE. The real numbers stay, and only the grid that they are
    rounded to changes."""
    index, output = operator.inputs[0], operator.outputs[0]
    if made.tensor(index).values is not None and made.keeps_grid(operator):
        made.stand_for(output, index)
        return
    layout = made.layout(index)
    value = made.take(index, layout)
    if made.keeps_grid(operator):
        made.hold(output, value, layout)
    else:
        made.give(operator, value, layout)
