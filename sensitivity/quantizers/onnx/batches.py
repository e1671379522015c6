"""A batch of arrays by name and in pieces, and the outputs of the pieces as of one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import TaskError

Arrays = Mapping[str, NDArray[Any]]


def feed(inputs: Any, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the inputs of a batch by name: an array for a model with one input, a tuple in the
    file's order, or a dict.

    Raises TaskError where number or names differ from the file's.
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
    """Return a tensor of torch, or what numpy takes for an array, as a contiguous array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.ascontiguousarray(value)


def fixed_batch(model: Any) -> int | None:
    """Return the batch size that a session (or an `OnnxModel`) is made for; None where it takes
    any."""
    for value in model.get_inputs():
        sizes = value.shape or [None]
        if isinstance(sizes[0], int):
            return sizes[0]
    return None


def length(arrays: Arrays) -> int | None:
    """Return the samples in a batch: the first axis of its first array that has one; None where
    none has."""
    for array in arrays.values():
        if array.ndim:
            return len(array)
    return None


def of_samples(arrays: Arrays, rows: slice | NDArray[np.integer]) -> Arrays:
    """Return the batch with these of its samples only; an array without an entry for each sample
    stays as it is. rows: which samples."""
    samples = length(arrays)
    chosen = {}
    for name, array in arrays.items():
        has_samples = array.shape[:1] == (samples,)
        chosen[name] = array[rows] if has_samples else array
    return chosen


def pieces(arrays: Arrays, size: int | None) -> list[Arrays]:
    """Return the batch `size` samples at a time, the last piece filled up with its last sample;
    whole for None."""
    samples = length(arrays)
    if size is None or samples is None:
        return [arrays]
    parts: list[Arrays] = []
    for start in range(0, samples, size):
        rows = np.minimum(np.arange(start, start + size), samples - 1)
        parts.append(of_samples(arrays, rows))
    return parts


def without_filling(array: NDArray[Any], size: int, samples: int) -> NDArray[Any]:
    """Return what is of so many samples in a batch of `size` that others only fill up; an array
    without an entry for each sample as it is."""
    has_samples = array.shape[:1] == (size,)
    return array[:samples] if has_samples else array


def nested(outputs: Sequence[Any]) -> Any:
    """Return what a model gives: its output, or a tuple of several."""
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def joined(parts: Sequence[Sequence[NDArray[Any]]], samples: int | None) -> Any:
    """Return the outputs of all pieces as of one batch, without those of samples that only filled
    the last piece."""
    if len(parts) == 1:
        whole = list(parts[0])
    else:
        whole = list(map(np.concatenate, zip(*parts, strict=True)))
    # `[:None]` takes all of an array.
    return nested([output[:samples] if output.ndim else output for output in whole])


def difference(one: Any, other: Any) -> float:
    """Return the largest difference as a part of the largest value of its output; inf where shapes
    or types differ."""
    if not isinstance(one, tuple):
        return _array_difference(one, other)
    return max(map(_array_difference, one, other), default=0.0)


def _array_difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return float("inf")
    if np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
        return 0.0
    largest = float(np.max(np.abs(one.astype(np.float64) - other)))
    return largest / max(float(np.max(np.abs(one))), 1e-30)
