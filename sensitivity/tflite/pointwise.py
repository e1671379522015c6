"""Operators that compute each number by itself, or of two tensors number by number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sensitivity.tflite.layers import name_of
from sensitivity.tflite.model import Operator
from sensitivity.tflite.translation import Layout, Translation

Function = Callable[[Translation, Operator], None]


def unary(kind: str, **attributes: Any) -> Function:
    """Return an operator of ONNX that takes the tensor in any layout."""

    def translate(made: Translation, operator: Operator) -> None:
        layout = made.layout(operator.inputs[0])
        value = made.take(operator.inputs[0], layout)
        made.give(operator, made.emit(kind, [value], name_of(made, operator), **attributes), layout)

    return translate


def clamp(word: str) -> Function:
    """Return an activation by itself. word: as fused ones are called."""

    def translate(made: Translation, operator: Operator) -> None:
        layout = made.layout(operator.inputs[0])
        value = made.take(operator.inputs[0], layout)
        made.give(operator, made.clamped(value, word, name_of(made, operator)), layout)

    return translate


def binary(kind: str) -> Function:
    """Return an operator of ONNX on two tensors, the smaller of which is spread over the larger."""

    def translate(made: Translation, operator: Operator) -> None:
        values, layout = in_one_layout(made, operator)
        made.give(operator, made.emit(kind, values, name_of(made, operator)), layout)

    return translate


def in_one_layout(made: Translation, operator: Operator) -> tuple[list[str], Layout]:
    """Return the inputs, so that their axes stand for the same. Channels come first where one has
    them so and each of the others can."""
    if "first" not in map(made.layout, operator.inputs):
        return list(map(made.take, operator.inputs)), "last"
    rank = max(len(made.tensor(index).shape) for index in operator.inputs)
    name = name_of(made, operator)
    return [_with_channels_first(made, index, rank, name) for index in operator.inputs], "first"


def _with_channels_first(made: Translation, index: int, rank: int, name: str) -> str:
    """Return a tensor with its channels first; one of fewer axes as one of this rank, [c] as [1, c,
    1, 1]."""
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
    """Its slope below zero is an attribute."""
    unary("LeakyRelu", alpha=operator.options["alpha"])(made, operator)


def gelu(made: Translation, operator: Operator) -> None:
    """The exact one, x * (1 + erf(x / sqrt 2)) / 2, or the one by tanh that comes near it."""
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
    """Its slopes below zero are a tensor, as a rule one for each channel."""
    values, layout = in_one_layout(made, operator)
    made.give(operator, made.emit("PRelu", values, name_of(made, operator)), layout)


def squared(made: Translation, operator: Operator) -> None:
    """ONNX has no operator of its own for it."""
    layout = made.layout(operator.inputs[0])
    value = made.take(operator.inputs[0], layout)
    made.give(operator, made.emit("Mul", [value, value], name_of(made, operator)), layout)


def squared_difference(made: Translation, operator: Operator) -> None:
    """As a difference times itself."""
    values, layout = in_one_layout(made, operator)
    name = name_of(made, operator)
    apart = made.emit("Sub", values, f"{name}/Sub")
    made.give(operator, made.emit("Mul", [apart, apart], name), layout)


def rsqrt(made: Translation, operator: Operator) -> None:
    """As one divided by a root."""
    layout = made.layout(operator.inputs[0])
    value, name = made.take(operator.inputs[0], layout), name_of(made, operator)
    root = made.emit("Sqrt", [value], f"{name}/Sqrt")
    made.give(operator, made.emit("Reciprocal", [root], name), layout)


def softmax(made: Translation, operator: Operator) -> None:
    """Over the last axis, of the input times beta."""
    value, name = made.take(operator.inputs[0]), name_of(made, operator)
    beta = operator.options["beta"]
    if beta != 1:
        scale = made.number(np.float32(beta), f"{name}/beta")
        value = made.emit("Mul", [value, scale], f"{name}/Mul")
    made.give(operator, made.emit("Softmax", [value], name, axis=-1))


def log_softmax(made: Translation, operator: Operator) -> None:
    """Over the last axis."""
    value = made.take(operator.inputs[0])
    made.give(operator, made.emit("LogSoftmax", [value], name_of(made, operator), axis=-1))


def requantized(made: Translation, operator: Operator) -> None:
    """QUANTIZE and DEQUANTIZE: the real numbers stay, what the tensor is rounded to changes."""
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
