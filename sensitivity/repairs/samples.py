"""Gathers the calibration inputs that a repair is fitted on into one batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sensitivity import optional
from sensitivity.tasks.batches import arrays, batch_size, each_array, first_samples

MOST_SAMPLES = 256
MOST_BYTES = 128 * 2**20
"""Largest number of bytes of the inputs. One forward of a convolutional network holds ten to thirty
times as much."""


def one_batch(batches: Iterable[Any]) -> Any:
    """Return the samples of these input batches as one batch, within the limits above.

    Batches whose samples differ in shape from those of the first are left out. If the inputs are
    not only tensors or numpy arrays, the first batch is returned.
    """
    batches = iter(batches)
    first = next(batches)
    if not _is_of_arrays(first):
        return first
    most = min(MOST_SAMPLES, max(1, batch_size(first) * MOST_BYTES // max(_bytes(first), 1)))
    parts, samples = [first], batch_size(first)
    for inputs in batches:
        if samples >= most:
            break
        if _sample_shapes(inputs) == _sample_shapes(first):
            parts.append(inputs)
            samples += batch_size(inputs)
    return first_samples(each_array(_joined, *parts), most)


def _is_of_arrays(inputs: Any) -> bool:
    """Return whether the inputs are a nest of tensors or numpy arrays only, each with a sample
    axis."""
    parts = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    if isinstance(parts, (tuple, list)):
        return all(map(_is_of_arrays, parts))
    return hasattr(parts, "shape") and len(parts.shape) > 0


def _bytes(inputs: Any) -> int:
    return sum(int(array.nbytes) for array in arrays(inputs))


def _sample_shapes(inputs: Any) -> list[tuple[int, ...]]:
    return [tuple(array.shape[1:]) for array in arrays(inputs)]


def _joined(*parts: Any) -> Any:
    """Return arrays of several batches as one array with all their samples."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return optional.torch.cat(parts)
