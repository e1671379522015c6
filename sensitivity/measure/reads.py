"""Finds out which parts of a model's outputs the score reads, by changing one part at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from sensitivity.errors import SensitivityError
from sensitivity.records import Scores
from sensitivity.seeds import generator
from sensitivity.tasks.batches import as_numpy
from sensitivity.tasks.outputs import Array, leaves, with_arrays

Block = tuple[np.ndarray, ...] | None
"""Indices that a unit touches along each axis of one output, for all samples; None if it touches
nothing."""

MOST_CHANNELS, STRETCHES = 128, 16
"""Length of an axis up to which each index is tested alone, and number of stretches that a longer
axis is tested in."""


class ScoreReads:
    """Tells whether the score notices other values in some part of the outputs.

    Each part is tested once.

    arrays: float's outputs, in the order of their leaves.
    """

    def __init__(self, scores: Callable[[Any], Scores], outputs: Any) -> None:
        self.arrays: list[Array] = list(map(as_numpy, leaves(outputs)))
        self._scores, self._outputs = scores, outputs
        self._own = scores(outputs)
        self._known: dict[Any, bool] = {}

    def __call__(self, touched: Sequence[Block]) -> bool:
        """Return whether the score notices other values in the touched parts.

        Also returns True if nothing is touched, or if a touched part holds no floating-point
        numbers.
        """
        key = tuple(map(_key, touched))
        if not any(key):
            return True
        if key not in self._known:
            self._known[key] = any(self._notices(touched, other) for other in OTHER_VALUES)
        return self._known[key]

    def _notices(self, touched: Sequence[Block], other: Callable[[Array, float], Array]) -> bool:
        replaced = []
        for array, part in zip(self.arrays, touched, strict=True):
            if part is None:
                replaced.append(array)
                continue
            if not np.issubdtype(array.dtype, np.floating):
                return True
            changed = array.copy()
            samples = map(np.arange, array.shape[:1])  # an output may be one number without axes
            where = np.ix_(*samples, *part)
            changed[where] = other(array[where], float(np.abs(array).max(initial=0)))
            replaced.append(changed)
        try:
            scores = self._scores(with_arrays(self._outputs, replaced))
        except SensitivityError:  # a score that raises has read the values
            return True
        return not np.array_equal(scores, self._own)


def _key(touched: Block) -> Hashable:
    """Return a key that tells parts of one output apart; None if nothing is touched."""
    if touched is None:
        return None
    return "part", *map(np.ndarray.tobytes, touched)


def _random(values: Array, largest: float) -> Array:
    drawn = np.asarray(generator().normal(scale=10 * (largest + 1), size=values.shape))
    return drawn.astype(values.dtype)


def _turned(values: Array, largest: float) -> Array:
    """Return the same values with their signs turned and their places shuffled."""
    drawn = generator(offset=1).permutation(values.reshape(-1)).reshape(values.shape)
    return np.asarray(-drawn)


def _zero(values: Array, largest: float) -> Array:
    return np.zeros_like(values)


OTHER_VALUES = (_random, _turned, _zero)


def block(before: Array, after: Array) -> Block:
    """Return the part of an output that differs: along each axis but the first, the indices with
    any difference.

    >>> block(np.zeros((1, 3, 2)), np.array([[[0, 0], [0, 1.0], [0, 0]]]))
    (array([1]), array([1]))
    """
    if before.shape != after.shape:
        return everything(before)
    both_nan = (before != before) & (after != after)
    differs = ~((before == after) | both_nan)
    if not differs.any():
        return None
    touched = []
    for axis in range(1, differs.ndim):
        part = np.moveaxis(differs, axis, 0)
        touched.append(np.flatnonzero(part.reshape(len(part), -1).any(axis=1)))
    return tuple(touched)


def everything(array: Array) -> Block:
    """Return the block that covers a whole output."""
    return tuple(map(np.arange, array.shape[1:]))


def every_part(arrays: Sequence[Array]) -> Iterator[list[Block]]:
    """Yield each channel of each output, and each stretch of its positions, as the only part that
    is touched."""
    for number, array in enumerate(arrays):
        axes = list(map(np.arange, array.shape[1:]))
        for part in _parts(axes):
            touched: list[Block] = [None] * len(arrays)
            touched[number] = part
            yield touched


def _parts(axes: list[Array]) -> Iterator[tuple[Array, ...]]:
    """Yield each part of every axis of an output; for an output of one value per sample, that
    value."""
    if not axes:
        yield ()
    for axis, indices in enumerate(axes):
        parts = STRETCHES
        if len(indices) <= MOST_CHANNELS:
            parts = len(indices)
        for part in np.array_split(indices, parts):
            yield (*axes[:axis], part, *axes[axis + 1 :])
