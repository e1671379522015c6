"""Translates operators that move numbers and compute none."""

from __future__ import annotations

import numpy as np

from sensitivity.errors import TfliteFileError
from sensitivity.tflite.layers import name_of
from sensitivity.tflite.model import Array, Operator
from sensitivity.tflite.pointwise import in_one_layout
from sensitivity.tflite.translation import Layout, Translation, axes_to, axis_in

END = np.iinfo(np.int64).max
"""Number after the end of every axis."""


def reshape(translation: Translation, operator: Operator) -> None:
    """Translate RESHAPE, SQUEEZE and EXPAND_DIMS: the same numbers in the shape of the output."""
    index, name = operator.inputs[0], name_of(translation, operator)
    shape = translation.tensor(index).shape
    # The numbers of an image of one pixel have the same order with channels first.
    is_pixel = len(shape) == 4 and shape[1:3] == (1, 1)
    value = translation.take(index, translation.layout(index) if is_pixel else "last")
    sides = translation.number(
        np.array(translation.tensor(operator.outputs[0]).shape), f"{name}/sides"
    )
    _moved(translation, operator, translation.emit("Reshape", [value, sides], name))


def transpose(translation: Translation, operator: Operator) -> None:
    """Translate TRANSPOSE.

    If it only moves the channels, no node is added, since the other layout is held already.
    """
    index, output = operator.inputs[0], operator.outputs[0]
    perm = translation.integers(operator, 1).tolist()
    rank, name = len(perm), name_of(translation, operator)
    has_places = rank > 2
    to_last = has_places and perm == axes_to("first", rank, back=True)
    to_first = has_places and perm == axes_to("first", rank)
    if to_last and translation.keeps_grid(operator):
        translation.hold(output, translation.take(index), "first")
    elif to_first and translation.layout(index) == "first":
        _moved(translation, operator, translation.take(index, "first"))
    else:
        _moved(
            translation,
            operator,
            translation.emit("Transpose", [translation.take(index)], name, perm=perm),
        )


def _moved(translation: Translation, operator: Operator, value: str) -> None:
    """Store an output with the numbers of the input, without another pair if the grid is the
    same."""
    if translation.keeps_grid(operator):
        translation.hold(operator.outputs[0], value, "last")
    else:
        translation.give(operator, value)


def concatenation(translation: Translation, operator: Operator) -> None:
    """Translate CONCATENATION, whose axis is one of the file's layout."""
    values, layout = in_one_layout(translation, operator)
    rank = len(translation.tensor(operator.outputs[0]).shape)
    axis = axis_in(layout, operator.options["axis"], rank)
    translation.give(
        operator,
        translation.emit("Concat", values, name_of(translation, operator), axis=axis),
        layout,
    )


def pack(translation: Translation, operator: Operator) -> None:
    """Translate PACK: each input gets a new axis, along which all are joined."""
    name = name_of(translation, operator)
    axis = operator.options["axis"] % len(translation.tensor(operator.outputs[0]).shape)
    axes = translation.number(np.array([axis]), f"{name}/axis")
    values = [
        translation.emit("Unsqueeze", [translation.take(index), axes], f"{name}/{position}")
        for position, index in enumerate(operator.inputs)
    ]
    translation.give(operator, translation.emit("Concat", values, name, axis=axis))


def unpack(translation: Translation, operator: Operator) -> None:
    """Translate UNPACK: each output is one entry of the axis, which is dropped."""
    index, axis = operator.inputs[0], operator.options["axis"]
    value, axis = translation.take(index), axis % len(translation.tensor(index).shape)
    for position, output in enumerate(operator.outputs):
        name = translation.tensor(output).name
        place = translation.number(np.array(position), f"{name}/place")
        translation.give(
            operator, translation.emit("Gather", [value, place], name, axis=axis), position=position
        )


def pad(translation: Translation, operator: Operator) -> None:
    """Translate PAD and PADV2, which pad with zero or with the constant in the third input."""
    index, name = operator.inputs[0], name_of(translation, operator)
    layout = translation.layout(index)
    rank = len(translation.tensor(index).shape)
    given = translation.integers(operator, 1).reshape(rank, 2)[axes_to(layout, rank)]
    pads = translation.number(given.T.reshape(-1), f"{name}/pads")
    filled = [translation.take(constant) for constant in operator.inputs[2:]]
    value = translation.emit("Pad", [translation.take(index, layout), pads, *filled], name)
    translation.give(operator, value, layout)


def slice_(translation: Translation, operator: Operator) -> None:
    """Translate SLICE from a start on. A size of -1 reaches to the end."""
    begin, size = (translation.integers(operator, position) for position in (1, 2))
    ends = np.where(size < 0, END, begin + size)
    _slice(translation, operator, begin, ends, np.ones_like(begin))


def strided_slice(translation: Translation, operator: Operator) -> None:
    """Translate STRIDED_SLICE. Bits of the masks open a start or an end, or drop the axis."""
    options = operator.options
    if options["ellipsisMask"] or options["newAxisMask"] or options["offset"]:
        raise TfliteFileError(
            f"Expected {translation.where(operator)} to have a start, an end and a step for each "
            "axis, got one with an ellipsis, a new axis or an offset; convert the model without it."
        )
    begin, end, step = (translation.integers(operator, position) for position in (1, 2, 3))
    masks = ("beginMask", "endMask", "shrinkAxisMask")
    from_start, to_end, is_dropped = (_bits(options[mask], len(begin)) for mask in masks)
    backwards = step < 0
    # A dropped axis is read at its start alone. The place after -1 is the end.
    behind = np.where(begin == -1, END, begin + 1)
    end = np.where(to_end, np.where(backwards, -END, END), end)
    end = np.where(is_dropped, behind, end)
    begin = np.where(from_start & ~is_dropped, np.where(backwards, END, 0), begin)
    _slice(translation, operator, begin, end, step)


def _bits(mask: int, axes: int) -> Array:
    """Return bool[axes]: whether a mask has the bit of an axis set, the lowest bit for the first
    axis."""
    return np.asarray((mask >> np.arange(axes)) & 1, np.bool_)


def _slice(
    translation: Translation, operator: Operator, begin: Array, end: Array, step: Array
) -> None:
    """Add a Slice from `begin` to `end`, with a Reshape if an axis is dropped."""
    index, name = operator.inputs[0], name_of(translation, operator)
    rank = len(translation.tensor(index).shape)
    shape = translation.tensor(operator.outputs[0]).shape
    layout: Layout = translation.layout(index) if len(shape) == rank else "last"
    axes = np.array([axis_in(layout, axis, rank) for axis in range(len(begin))])
    places = {"starts": begin, "ends": end, "axes": axes, "steps": step}
    given = [translation.number(each, f"{name}/{word}") for word, each in places.items()]
    value = translation.emit("Slice", [translation.take(index, layout), *given], name)
    if len(shape) != rank:
        sides = translation.number(np.array(shape, np.int64), f"{name}/sides")
        value = translation.emit("Reshape", [value, sides], f"{name}/shrunk")
    translation.give(operator, value, layout)


def split(translation: Translation, operator: Operator) -> None:
    """Translate SPLIT, whose first input is the axis."""
    _split(translation, operator, operator.inputs[1], int(translation.integers(operator, 0)[0]))


def split_v(translation: Translation, operator: Operator) -> None:
    """Translate SPLIT_V, whose inputs are the tensor, the sizes and the axis."""
    _split(translation, operator, operator.inputs[0], int(translation.integers(operator, 2)[0]))


def _split(translation: Translation, operator: Operator, index: int, axis: int) -> None:
    """Add a Slice for each output of a split along this axis."""
    layout, rank = translation.layout(index), len(translation.tensor(index).shape)
    value, moved = translation.take(index, layout), axis_in(layout, axis, rank)
    begin = 0
    for position, output in enumerate(operator.outputs):
        name = translation.tensor(output).name
        end = begin + translation.tensor(output).shape[axis]
        places = {"start": begin, "end": end, "axis": moved}
        given = [
            translation.number(np.array([each]), f"{name}/{word}") for word, each in places.items()
        ]
        translation.give(
            operator, translation.emit("Slice", [value, *given], name), layout, position=position
        )
        begin = end


def gather(translation: Translation, operator: Operator) -> None:
    """Translate GATHER from one axis, with indices that may be computed."""
    index, places = operator.inputs
    if operator.options["batchDims"]:
        raise TfliteFileError(
            f"Expected {translation.where(operator)} without batch dimensions, got "
            f"{operator.options['batchDims']}; convert the model without them."
        )
    axis = operator.options["axis"] % len(translation.tensor(index).shape)
    inputs = [translation.take(index), translation.take(places)]
    translation.give(
        operator, translation.emit("Gather", inputs, name_of(translation, operator), axis=axis)
    )
