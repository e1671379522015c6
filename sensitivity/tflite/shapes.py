"""Translates operators that move numbers and compute none."""

from __future__ import annotations

import numpy as np

from sensitivity.errors import TfliteFileError
from sensitivity.tflite.layers import name_of
from sensitivity.tflite.model import Array, Operator
from sensitivity.tflite.pointwise import in_one_layout
from sensitivity.tflite.translation import Layout, Translation, axes_to, axis_in

END = np.iinfo(np.int64).max
"""Number behind the end of every axis."""


def reshape(made: Translation, operator: Operator) -> None:
    """Translate RESHAPE, SQUEEZE and EXPAND_DIMS: the same numbers in the shape of the output."""
    index, name = operator.inputs[0], name_of(made, operator)
    shape = made.tensor(index).shape
    # The numbers of an image of one pixel have the same order with channels first.
    is_pixel = len(shape) == 4 and shape[1:3] == (1, 1)
    value = made.take(index, made.layout(index) if is_pixel else "last")
    sides = made.number(np.array(made.tensor(operator.outputs[0]).shape), f"{name}/sides")
    _moved(made, operator, made.emit("Reshape", [value, sides], name))


def transpose(made: Translation, operator: Operator) -> None:
    """Translate TRANSPOSE.

    If it only moves the channels, no node is added, since the other layout is held already.
    """
    index, output = operator.inputs[0], operator.outputs[0]
    perm = made.integers(operator, 1).tolist()
    rank, name = len(perm), name_of(made, operator)
    has_places = rank > 2
    to_last = has_places and perm == axes_to("first", rank, back=True)
    to_first = has_places and perm == axes_to("first", rank)
    if to_last and made.keeps_grid(operator):
        made.hold(output, made.take(index), "first")
    elif to_first and made.layout(index) == "first":
        _moved(made, operator, made.take(index, "first"))
    else:
        _moved(made, operator, made.emit("Transpose", [made.take(index)], name, perm=perm))


def _moved(made: Translation, operator: Operator, value: str) -> None:
    """Store an output with the numbers of the input, without another pair if the grid is the
    same."""
    if made.keeps_grid(operator):
        made.hold(operator.outputs[0], value, "last")
    else:
        made.give(operator, value)


def concatenation(made: Translation, operator: Operator) -> None:
    """Translate CONCATENATION, whose axis is one of the file's layout."""
    values, layout = in_one_layout(made, operator)
    rank = len(made.tensor(operator.outputs[0]).shape)
    axis = axis_in(layout, operator.options["axis"], rank)
    made.give(operator, made.emit("Concat", values, name_of(made, operator), axis=axis), layout)


def pack(made: Translation, operator: Operator) -> None:
    """Translate PACK: each input gets a new axis, along which all are joined."""
    name = name_of(made, operator)
    axis = operator.options["axis"] % len(made.tensor(operator.outputs[0]).shape)
    axes = made.number(np.array([axis]), f"{name}/axis")
    values = [
        made.emit("Unsqueeze", [made.take(index), axes], f"{name}/{at}")
        for at, index in enumerate(operator.inputs)
    ]
    made.give(operator, made.emit("Concat", values, name, axis=axis))


def unpack(made: Translation, operator: Operator) -> None:
    """Translate UNPACK: each output is one entry of the axis, which is dropped."""
    index, axis = operator.inputs[0], operator.options["axis"]
    value, axis = made.take(index), axis % len(made.tensor(index).shape)
    for at, output in enumerate(operator.outputs):
        name = made.tensor(output).name
        place = made.number(np.array(at), f"{name}/place")
        made.give(operator, made.emit("Gather", [value, place], name, axis=axis), at=at)


def pad(made: Translation, operator: Operator) -> None:
    """Translate PAD and PADV2, which pad with zero or with the constant in the third input."""
    index, name = operator.inputs[0], name_of(made, operator)
    layout = made.layout(index)
    rank = len(made.tensor(index).shape)
    given = made.integers(operator, 1).reshape(rank, 2)[axes_to(layout, rank)]
    pads = made.number(given.T.reshape(-1), f"{name}/pads")
    filled = [made.take(at) for at in operator.inputs[2:]]
    value = made.emit("Pad", [made.take(index, layout), pads, *filled], name)
    made.give(operator, value, layout)


def slice_(made: Translation, operator: Operator) -> None:
    """Translate SLICE from a start on. A size of -1 reaches to the end."""
    begin, size = (made.integers(operator, at) for at in (1, 2))
    ends = np.where(size < 0, END, begin + size)
    _slice(made, operator, begin, ends, np.ones_like(begin))


def strided_slice(made: Translation, operator: Operator) -> None:
    """Translate STRIDED_SLICE. Bits of the masks open a start or an end, or drop the axis."""
    options = operator.options
    if options["ellipsisMask"] or options["newAxisMask"] or options["offset"]:
        raise TfliteFileError(
            f"Expected {made.where(operator)} to have a start, an end and a step for each axis, "
            "got one with an ellipsis, a new axis or an offset; convert the model without it."
        )
    begin, end, step = (made.integers(operator, at) for at in (1, 2, 3))
    masks = ("beginMask", "endMask", "shrinkAxisMask")
    from_start, to_end, is_dropped = (_bits(options[mask], len(begin)) for mask in masks)
    backwards = step < 0
    # A dropped axis is read at its start alone. The place behind -1 is the end.
    behind = np.where(begin == -1, END, begin + 1)
    end = np.where(to_end, np.where(backwards, -END, END), end)
    end = np.where(is_dropped, behind, end)
    begin = np.where(from_start & ~is_dropped, np.where(backwards, END, 0), begin)
    _slice(made, operator, begin, end, step)


def _bits(mask: int, axes: int) -> Array:
    """Return bool[axes]: whether a mask has the bit of an axis set, the lowest bit for the first
    axis."""
    return np.asarray((mask >> np.arange(axes)) & 1, np.bool_)


def _slice(made: Translation, operator: Operator, begin: Array, end: Array, step: Array) -> None:
    index, name = operator.inputs[0], name_of(made, operator)
    rank = len(made.tensor(index).shape)
    shape = made.tensor(operator.outputs[0]).shape
    layout: Layout = made.layout(index) if len(shape) == rank else "last"
    axes = np.array([axis_in(layout, axis, rank) for axis in range(len(begin))])
    places = {"starts": begin, "ends": end, "axes": axes, "steps": step}
    given = [made.number(each, f"{name}/{word}") for word, each in places.items()]
    value = made.emit("Slice", [made.take(index, layout), *given], name)
    if len(shape) != rank:
        sides = made.number(np.array(shape, np.int64), f"{name}/sides")
        value = made.emit("Reshape", [value, sides], f"{name}/shrunk")
    made.give(operator, value, layout)


def split(made: Translation, operator: Operator) -> None:
    """Translate SPLIT, whose first input is the axis."""
    _split(made, operator, operator.inputs[1], int(made.integers(operator, 0)[0]))


def split_v(made: Translation, operator: Operator) -> None:
    """Translate SPLIT_V, whose inputs are the tensor, the sizes and the axis."""
    _split(made, operator, operator.inputs[0], int(made.integers(operator, 2)[0]))


def _split(made: Translation, operator: Operator, index: int, axis: int) -> None:
    layout, rank = made.layout(index), len(made.tensor(index).shape)
    value, moved = made.take(index, layout), axis_in(layout, axis, rank)
    begin = 0
    for at, output in enumerate(operator.outputs):
        name = made.tensor(output).name
        end = begin + made.tensor(output).shape[axis]
        places = {"start": begin, "end": end, "axis": moved}
        given = [made.number(np.array([each]), f"{name}/{word}") for word, each in places.items()]
        made.give(operator, made.emit("Slice", [value, *given], name), layout, at=at)
        begin = end


def gather(made: Translation, operator: Operator) -> None:
    """Translate GATHER from one axis, with indices that may be computed."""
    index, places = operator.inputs
    if operator.options["batchDims"]:
        raise TfliteFileError(
            f"Expected {made.where(operator)} without batch dimensions, got "
            f"{operator.options['batchDims']}; convert the model without them."
        )
    axis = operator.options["axis"] % len(made.tensor(index).shape)
    inputs = [made.take(index), made.take(places)]
    made.give(operator, made.emit("Gather", inputs, name_of(made, operator), axis=axis))
