"""Reads and replaces the tensors and arrays in nested outputs of a model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sensitivity.tasks.batches import sequence_of

Array = np.ndarray[Any, np.dtype[Any]]


def leaves(outputs: Any) -> list[Any]:
    """Return the tensors or arrays in a nest of tuples, lists, dicts and dataclasses, in order."""
    collected = list[Any]()

    def collect(leaf: Any) -> Any:
        collected.append(leaf)
        return leaf

    mapped(outputs, collect)
    return collected


def with_arrays(outputs: Any, arrays: Sequence[Array]) -> Any:
    """Return the same nest with these values, as tensors or arrays like its leaves."""
    left: Iterator[Array] = iter(arrays)

    def filled(leaf: Any) -> Any:
        array = next(left)
        if hasattr(leaf, "new_tensor"):
            return leaf.new_tensor(array, dtype=leaf.dtype)
        return array

    return mapped(outputs, filled)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return the nest with each tensor or array changed; anything else stays."""
    is_array = hasattr(value, "shape") and hasattr(value, "dtype")
    if is_array:
        return change(value)
    if isinstance(value, Mapping):
        return _mapped_mapping(value, change)
    if isinstance(value, (tuple, list)):
        return sequence_of(type(value), [mapped(item, change) for item in value])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _mapped_dataclass(value, change)
    return value


def _mapped_mapping(value: Mapping[Any, Any], change: Callable[[Any], Any]) -> Mapping[Any, Any]:
    items = {key: mapped(item, change) for key, item in value.items()}
    if not isinstance(value, MutableMapping):
        return items
    copied = copy.copy(value)  # keeps the class, which the score may check
    for key, item in items.items():  # classes of transformers refuse update()
        copied[key] = item
    return copied


def _mapped_dataclass(value: Any, change: Callable[[Any], Any]) -> Any:
    values = {}
    for field in dataclasses.fields(value):
        if field.init:
            values[field.name] = mapped(getattr(value, field.name), change)
    return replace(value, **values)


def copied(leaf: Any) -> Any:
    """Return a tensor or array in memory of its own."""
    if hasattr(leaf, "clone"):
        return leaf.clone()
    return leaf.copy()
