"""Translates operators over the height and width of images, or over whole axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sensitivity.tflite.layers import name_of, pads_of
from sensitivity.tflite.model import Operator
from sensitivity.tflite.translation import Translation, axis_in

Function = Callable[[Translation, Operator], None]
"""Function that adds the translation of an operator to a graph."""


def pool(kind: str) -> Function:
    """Return the translation to a pooling operator of ONNX. An average leaves out what is outside
    the image.

    kind: name of the ONNX operator.
    """

    def translate(translation: Translation, operator: Operator) -> None:
        options = operator.options
        sides = options["filterHeight"], options["filterWidth"]
        strides = options["strideH"], options["strideW"]
        value = translation.emit(
            kind,
            [translation.take(operator.inputs[0], "first")],
            name_of(translation, operator),
            kernel_shape=sides,
            strides=strides,
            pads=pads_of(translation, operator, sides, strides),
        )
        translation.give(operator, value, "first")

    return translate


def reduce(kind: str, *, since: int = 18) -> Function:
    """Return the translation to a reduction of ONNX over constant axes.

    kind: name of the ONNX operator.
    since: first opset in which the axes are an input.
    """

    def translate(translation: Translation, operator: Operator) -> None:
        index, rank = operator.inputs[0], len(translation.tensor(operator.inputs[0]).shape)
        keeps = bool(operator.options["keepDims"])
        axes = translation.integers(operator, 1)
        over_places = sorted(axes % rank) == list(range(1, rank - 1))
        # If other axes are dropped, the rest is in the file's order only with channels last.
        layout = translation.layout(index) if keeps or over_places else "last"
        moved = [axis_in(layout, axis, rank) for axis in axes.tolist()]
        name, inputs = name_of(translation, operator), [translation.take(index, layout)]
        if translation.opset >= since:
            inputs.append(translation.number(np.array(moved), f"{name}/axes"))
            value = translation.emit(kind, inputs, name, keepdims=int(keeps))
        else:
            value = translation.emit(kind, inputs, name, axes=moved, keepdims=int(keeps))
        translation.give(operator, value, layout if keeps else "last")

    return translate


def resize_bilinear(translation: Translation, operator: Operator) -> None:
    """Translate RESIZE_BILINEAR, with the positions of pixels as in its options."""
    _resize(translation, operator, mode="linear")


def resize_nearest_neighbor(translation: Translation, operator: Operator) -> None:
    """Translate RESIZE_NEAREST_NEIGHBOR. Half way between two pixels, the later one is taken."""
    options = operator.options
    rounds = options["alignCorners"] or options["halfPixelCenters"]
    rounding = "round_prefer_ceil" if rounds else "floor"
    _resize(translation, operator, mode="nearest", nearest_mode=rounding)


def _resize(translation: Translation, operator: Operator, **attributes: str) -> None:
    """Add a Resize to the shape of the output."""
    options, name = operator.options, name_of(translation, operator)
    places = "half_pixel" if options["halfPixelCenters"] else "asymmetric"
    if options["alignCorners"]:
        places = "align_corners"
    batch, height, width, depth = translation.tensor(operator.outputs[0]).shape
    sizes = translation.number(np.array([batch, depth, height, width]), f"{name}/sizes")
    value = translation.take(operator.inputs[0], "first")
    value = translation.emit(
        "Resize",
        [value, "", "", sizes],
        name,
        coordinate_transformation_mode=places,
        **attributes,
    )
    translation.give(operator, value, "first")


def depth_to_space(translation: Translation, operator: Operator) -> None:
    """Translate DEPTH_TO_SPACE: a pixel of depth becomes a block, the depth within it varying
    slowest."""
    _blocks(translation, operator, "DepthToSpace")


def space_to_depth(translation: Translation, operator: Operator) -> None:
    """Translate SPACE_TO_DEPTH: a block becomes one pixel of depth."""
    _blocks(translation, operator, "SpaceToDepth")


def _blocks(translation: Translation, operator: Operator, kind: str) -> None:
    """Add an operator between depth and blocks of pixels."""
    value = translation.take(operator.inputs[0], "first")
    size = operator.options["blockSize"]
    translation.give(
        operator,
        translation.emit(kind, [value], name_of(translation, operator), blocksize=size),
        "first",
    )
