"""The arrays and the number of samples of a batch, whatever library its arrays are from."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from sensitivity.errors import TaskError

DIGEST_BYTES = 8

NOT_DIGESTED = "areas of the objects"
"""The entry of a dict that does not count in the digest of a batch. Detectors have it since AP is
shown by size, and runs begun before that are to be continued."""

SEQUENCES = (tuple, list)
"""Types of nests that hold arrays by position."""


def batch_digest(inputs: Any, targets: Any) -> str:
    """Return the hex digest of every array, number and text in a batch. It is the same in every
    process, and changes with any value.

    Tuples, lists, dicts and dataclasses are read entry by entry. Of any other object, only the type
    and the name count.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    _add(digest.update, inputs)
    _add(digest.update, targets)
    return digest.hexdigest()


def check_pair(batch: Any, split: str) -> tuple[Any, Any]:
    """Return the batch as (inputs, targets). Raises TaskError for anything but a pair, including an
    array or a dict with two entries."""
    got = f"one {type(batch).__name__}"
    if isinstance(batch, SEQUENCES):
        if len(batch) == 2:
            return batch[0], batch[1]
        got = f"{len(batch)} parts"
    raise TaskError(
        f"Expected each batch of split {split!r} to be (inputs, targets), got {got}; yield pairs, "
        "with several inputs as a tuple or dict in the first place."
    )


def batch_size(inputs: Any) -> int:
    """Return the number of samples in a batch, which is the length of the first axis of its arrays.
    A function counts as one sample.

    Raises TaskError if there is no array, or if two arrays differ in the length of that axis.
    """
    if callable(inputs):  # The evaluation of a task without samples.
        return 1
    shapes = [tuple(map(int, array.shape)) for array in arrays(inputs)]
    sizes = {shape[0] for shape in shapes if shape}
    if len(sizes) != 1:
        got = type(inputs).__name__
        if shapes:
            got = f"shapes {', '.join(map(str, shapes))}"
        raise TaskError(
            "Expected the inputs of a batch to be arrays that all have the sample as their first "
            f"axis, got {got}; yield (inputs, targets) pairs of batches, not of single samples."
        )
    return sizes.pop()


def first_samples(inputs: Any, samples: int) -> Any:
    """Return at most the first `samples` samples of the inputs of a batch. The sample is the first
    axis of every array."""

    def cut(array: Any) -> Any:
        if len(array.shape) == 0:
            return array
        return array[:samples]

    return map_arrays(cut, inputs)


def map_arrays(function: Callable[..., Any], *nests: Any) -> Any:
    """Call `function` with the arrays at the same place of all nests, and return a nest of its
    results, with the classes of the first nest.

    nests: tuples, lists, dicts and dataclasses, nested in the same way. Values that are not arrays
        are taken from the first nest.
    """
    first = nests[0]
    if hasattr(first, "shape"):
        return function(*nests)
    if isinstance(first, Mapping):
        return _map_mapping(function, nests)
    if isinstance(first, SEQUENCES):
        columns = zip(*nests, strict=True)
        return sequence_of(type(first), [map_arrays(function, *column) for column in columns])
    if is_dataclass(first) and not isinstance(first, type):
        return _map_dataclass(function, nests)
    return first


def _map_mapping(function: Callable[..., Any], nests: Sequence[Any]) -> Any:
    first = nests[0]
    items = {key: map_arrays(function, *map(itemgetter(key), nests)) for key in first}
    if not isinstance(first, MutableMapping):
        return items
    copied = copy.copy(first)  # keeps the class, which the score may check
    for key, item in items.items():  # classes of transformers refuse update()
        copied[key] = item
    return copied


def _map_dataclass(function: Callable[..., Any], nests: Sequence[Any]) -> Any:
    names = [field.name for field in fields(nests[0]) if field.init]
    values = {name: map_arrays(function, *map(attrgetter(name), nests)) for name in names}
    return replace(nests[0], **values)


def sequence_of(kind: Any, values: list[Any]) -> Any:
    """Return the values in a list, a tuple or a named tuple of this class."""
    is_named_tuple = hasattr(kind, "_fields")
    if is_named_tuple:
        return kind(*values)
    return kind(values)


def arrays(value: Any) -> Iterator[Any]:
    """Yield every array of a nest of tuples, lists and dicts."""
    if hasattr(value, "shape"):
        yield value
    elif isinstance(value, Mapping):
        yield from arrays(list(value.values()))
    elif isinstance(value, SEQUENCES):
        for item in value:
            yield from arrays(item)


PLAIN = (type(None), bool, int, float, complex, str, bytes)
"""Types whose values `repr` tells apart in every process."""


def _add(update: Callable[[Any], None], value: Any) -> None:
    """Feed one value to a digest. Its kind and size come first, so that two values in a row cannot
    be read as others."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        _add_array(update, value)
    elif isinstance(value, PLAIN):
        text = repr(value).encode()
        update(f"{type(value).__name__}{len(text)}:".encode() + text)
    elif isinstance(value, SEQUENCES):
        update(f"sequence{len(value)}:".encode())
        for item in value:
            _add(update, item)
    elif isinstance(value, Mapping):
        entries = [entry for entry in value.items() if entry[0] != NOT_DIGESTED]
        _add(update, tuple(chain.from_iterable(entries)))
    elif is_dataclass(type(value)):
        names = [field.name for field in fields(value)]
        _add(update, {name: getattr(value, name) for name in names})
    else:  # repr() would hold an address, which differs between processes.
        update(f"{type(value).__qualname__}:{getattr(value, '__qualname__', '')};".encode())


def _add_array(update: Callable[[Any], None], value: Any) -> None:
    array = as_numpy(value)
    if array.dtype.hasobject:
        _add(update, array.tolist())
        return
    update(f"{value.dtype}{array.shape}:".encode())
    update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def as_numpy(value: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """Return a tensor or array as a numpy array on the host. bfloat16, which numpy lacks, becomes
    float32 of the same values."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    tensor = value.detach().cpu()
    if "bfloat16" in str(tensor.dtype):
        tensor = tensor.float()
    return np.asarray(tensor.numpy())


def scores_of(value: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the scores that a task's `score` returned, as float64 on the host.

    value: a tensor of any type and device, an array, or a list.
    Raises TypeError for complex numbers, whose imaginary part would be lost.
    """
    scores = as_numpy(value)
    if np.iscomplexobj(scores):
        raise TypeError("complex numbers")
    return scores.astype(np.float64)
