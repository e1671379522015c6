"""Splits a batch of arrays into pieces, and joins the outputs of the pieces into those of one
batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.arrays import difference_of
from sensitivity.errors import TaskError

Arrays = Mapping[str, NDArray[Any]]
"""Arrays of a batch by the names of the inputs."""


def feed(inputs: Any, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the inputs of a batch by name.

    inputs: an array for a model with one input, a tuple in the file's order, or a dict.
    names: names of the file's inputs.
    Raises TaskError if number or names differ from the file's.
    """
    if isinstance(inputs, Mapping):
        given = dict(zip(map(str, inputs), inputs.values(), strict=True))
        fits, got = given.keys() == set(names), ", ".join(given)
    else:
        values = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
        given = dict(zip(names, values, strict=False))
        fits, got = len(values) == len(names), f"{len(values)} without names"
    if not fits:
        raise TaskError(
            f"Expected a batch with the inputs {', '.join(names)} of the ONNX file, got {got}."
        )
    return {name: _array(given[name]) for name in names}


def _array(value: Any) -> NDArray[Any]:
    """Return a torch tensor, or anything that numpy can convert, as a contiguous array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.ascontiguousarray(value)


def fixed_batch(model: Any) -> int | None:
    """Return the fixed batch size of a session (or an `OnnxModel`); None if it takes any size."""
    for value in model.get_inputs():
        sizes = value.shape or [None]
        if isinstance(sizes[0], int):
            return sizes[0]
    return None


def length(arrays: Arrays) -> int | None:
    """Return the number of samples in a batch: the first axis of its first array that has one; None
    if none has."""
    for array in arrays.values():
        if array.ndim:
            return len(array)
    return None


def of_samples(arrays: Arrays, rows: slice | NDArray[np.integer]) -> Arrays:
    """Return the batch with only these of its samples. An array without one entry per sample is
    left unchanged.

    rows: which samples.
    """
    samples = length(arrays)
    chosen = {}
    for name, array in arrays.items():
        has_samples = array.shape[:1] == (samples,)
        chosen[name] = array[rows] if has_samples else array
    return chosen


def pieces(arrays: Arrays, size: int | None) -> list[Arrays]:
    """Return the batch in pieces of `size` samples. The last piece is padded with its last sample.

    size: None to return the batch as one piece.
    """
    samples = length(arrays)
    if size is None or samples is None:
        return [arrays]
    parts: list[Arrays] = []
    for start in range(0, samples, size):
        rows = np.minimum(np.arange(start, start + size), samples - 1)
        parts.append(of_samples(arrays, rows))
    return parts


def without_filling(array: NDArray[Any], size: int, samples: int) -> NDArray[Any]:
    """Return the first `samples` entries of a piece, without its padding.

    An array without one entry per sample of the piece is returned unchanged.

    size: number of samples of the piece with its padding.
    """
    has_samples = array.shape[:1] == (size,)
    return array[:samples] if has_samples else array


def nested(outputs: Sequence[Any]) -> Any:
    """Return the outputs of a model: the only one, or a tuple of several."""
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def joined(parts: Sequence[Sequence[NDArray[Any]]], samples: int | None) -> Any:
    """Return the outputs of all pieces as those of one batch, without those of padding."""
    if len(parts) == 1:
        whole = list(parts[0])
    else:
        whole = list(map(np.concatenate, zip(*parts, strict=True)))
    # `[:None]` takes the whole array.
    return nested([output[:samples] if output.ndim else output for output in whole])


def difference(first: Any, second: Any) -> float:
    """Return the largest difference relative to the largest finite value of its output.

    Returns inf if shapes or types differ, or if a value is not finite in only one of them.
    """
    if not isinstance(first, tuple):
        return _array_difference(first, second)
    return max(map(_array_difference, first, second), default=0.0)


def _array_difference(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the same as `difference` for two arrays."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return float("inf")
    if np.array_equal(first, second, equal_nan=first.dtype.kind == "f"):
        return 0.0
    off = difference_of(first, second)
    if off is None:
        return float("inf")
    finite = np.where(np.isfinite(first), first, 0).astype(np.float64)
    return float(np.abs(off).max()) / max(float(np.abs(finite).max()), 1e-30)
