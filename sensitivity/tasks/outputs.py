"""Reads and replaces the tensors and arrays in nested outputs of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sensitivity.tasks.batches import map_arrays

Array = np.ndarray[Any, np.dtype[Any]]


def leaves(outputs: Any) -> list[Any]:
    """Return the tensors or arrays in a nest of tuples, lists, dicts and dataclasses, in order."""
    collected = list[Any]()

    def collect(leaf: Any) -> Any:
        collected.append(leaf)
        return leaf

    map_arrays(collect, outputs)
    return collected


def with_arrays(outputs: Any, arrays: Sequence[Array]) -> Any:
    """Return the same nest with these values, as tensors or arrays like its leaves."""
    left: Iterator[Array] = iter(arrays)

    def filled(leaf: Any) -> Any:
        array = next(left)
        if hasattr(leaf, "new_tensor"):
            return leaf.new_tensor(array, dtype=leaf.dtype)
        return array

    return map_arrays(filled, outputs)


def copied(leaf: Any) -> Any:
    """Return a tensor or array in memory of its own."""
    if hasattr(leaf, "clone"):
        return leaf.clone()
    return leaf.copy()
