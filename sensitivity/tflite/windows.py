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

    def translate(made: Translation, operator: Operator) -> None:
        options = operator.options
        sides = options["filterHeight"], options["filterWidth"]
        strides = options["strideH"], options["strideW"]
        value = made.emit(
            kind,
            [made.take(operator.inputs[0], "first")],
            name_of(made, operator),
            kernel_shape=sides,
            strides=strides,
            pads=pads_of(made, operator, sides, strides),
        )
        made.give(operator, value, "first")

    return translate


def reduce(kind: str, *, since: int = 18) -> Function:
    """Return the translation to a reduction of ONNX over constant axes.

    kind: name of the ONNX operator.
    since: first opset in which the axes are an input.
    """

    def translate(made: Translation, operator: Operator) -> None:
        index, rank = operator.inputs[0], len(made.tensor(operator.inputs[0]).shape)
        keeps = bool(operator.options["keepDims"])
        axes = made.integers(operator, 1)
        over_places = sorted(axes % rank) == list(range(1, rank - 1))
        # If other axes are dropped, the rest is in the file's order only with channels last.
        layout = made.layout(index) if keeps or over_places else "last"
        moved = [axis_in(layout, axis, rank) for axis in axes.tolist()]
        name, inputs = name_of(made, operator), [made.take(index, layout)]
        if made.opset >= since:
            inputs.append(made.number(np.array(moved), f"{name}/axes"))
            value = made.emit(kind, inputs, name, keepdims=int(keeps))
        else:
            value = made.emit(kind, inputs, name, axes=moved, keepdims=int(keeps))
        made.give(operator, value, layout if keeps else "last")

    return translate


def resize_bilinear(made: Translation, operator: Operator) -> None:
    """Translate RESIZE_BILINEAR, with the positions of pixels as in its options."""
    _resize(made, operator, mode="linear")


def resize_nearest_neighbor(made: Translation, operator: Operator) -> None:
    """Translate RESIZE_NEAREST_NEIGHBOR. Half way between two pixels, the later one is taken."""
    options = operator.options
    rounds = options["alignCorners"] or options["halfPixelCenters"]
    rounding = "round_prefer_ceil" if rounds else "floor"
    _resize(made, operator, mode="nearest", nearest_mode=rounding)


def _resize(made: Translation, operator: Operator, **attributes: str) -> None:
    options, name = operator.options, name_of(made, operator)
    places = "half_pixel" if options["halfPixelCenters"] else "asymmetric"
    if options["alignCorners"]:
        places = "align_corners"
    batch, height, width, depth = made.tensor(operator.outputs[0]).shape
    sizes = made.number(np.array([batch, depth, height, width]), f"{name}/sizes")
    value = made.take(operator.inputs[0], "first")
    value = made.emit(
        "Resize",
        [value, "", "", sizes],
        name,
        coordinate_transformation_mode=places,
        **attributes,
    )
    made.give(operator, value, "first")


def depth_to_space(made: Translation, operator: Operator) -> None:
    """Translate DEPTH_TO_SPACE: a pixel of depth becomes a block, the depth within it varying
    slowest."""
    _blocks(made, operator, "DepthToSpace")


def space_to_depth(made: Translation, operator: Operator) -> None:
    """Translate SPACE_TO_DEPTH: a block becomes one pixel of depth."""
    _blocks(made, operator, "SpaceToDepth")


def _blocks(made: Translation, operator: Operator, kind: str) -> None:
    value = made.take(operator.inputs[0], "first")
    size = operator.options["blockSize"]
    made.give(operator, made.emit(kind, [value], name_of(made, operator), blocksize=size), "first")
