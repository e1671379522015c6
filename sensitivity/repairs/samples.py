"""Gathers the calibration inputs that a repair is fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from sensitivity import optional
from sensitivity.tasks.batches import arrays, batch_size, first_samples, map_arrays

MOST_SAMPLES = 256
MOST_BYTES = 128 * 2**20
"""Largest number of bytes of the inputs. With half as many images of MobileNetV1, two more layers
had to be left out."""

PART_BYTES = 8 * 2**20
"""Bytes of a part, at most, unless one sample has more. One forward of a convolutional network
holds ten to thirty times as much as its inputs."""


Advance = Callable[[int, int], None]
"""Function that is told how many steps were done, and how many samples were spent on them."""

Show = Callable[[int], AbstractContextManager[Advance]]
"""Function that opens a progress display of this number of steps."""


def unseen(steps: int) -> AbstractContextManager[Advance]:
    """Show nothing."""
    return nullcontext(lambda done, samples: None)


@dataclass(frozen=True, eq=False)
class Parts:
    """Calibration inputs as several batches, which a repair sees as one.

    batches: as the model takes them; their samples have the same shapes.
    show: shows the progress of the repair.
    """

    batches: Sequence[Any]
    show: Show = unseen

    def joined(self) -> Any:
        """Return all samples as one batch."""
        if len(self.batches) == 1:
            return self.batches[0]
        return map_arrays(_joined, *self.batches)


def parts_of(inputs: Any) -> Parts:
    """Return calibration inputs as parts; those given as one batch are one part."""
    return inputs if isinstance(inputs, Parts) else Parts([inputs])


def calibration_parts(batches: Iterable[Any]) -> Parts:
    """Return the samples of these input batches, within the limits above.

    Batches whose samples differ in shape from those of the first are left out. If the inputs are
    not only tensors or numpy arrays, the first batch is returned.
    """
    batches = iter(batches)
    first = next(batches)
    if not _is_of_arrays(first):
        return Parts([first])
    of_sample = max(_bytes(first) // batch_size(first), 1)
    most = min(MOST_SAMPLES, max(1, MOST_BYTES // of_sample))
    return Parts(list(_parts(first, batches, most, max(1, PART_BYTES // of_sample))))


def _parts(first: Any, others: Iterator[Any], most: int, size: int) -> Iterator[Any]:
    """Yield `most` samples in all, `size` at a time."""
    waiting: list[Any] = []
    for piece in _pieces(first, others, most, size):
        if sum(map(batch_size, waiting)) + batch_size(piece) > size:
            yield Parts(waiting).joined()
            waiting = []
        waiting.append(piece)
    yield Parts(waiting).joined()


def _pieces(first: Any, others: Iterator[Any], most: int, size: int) -> Iterator[Any]:
    """Yield batches of at most `size` samples, `most` samples in all."""
    for inputs in chain([first], others):
        if _sample_shapes(inputs) != _sample_shapes(first):
            continue
        kept = first_samples(inputs, most)
        for start in range(0, batch_size(kept), size):
            yield map_arrays(partial(_rows, start, start + size), kept)
        most -= batch_size(kept)
        if most <= 0:
            return


def _rows(start: int, stop: int, array: Any) -> Any:
    return array[start:stop]


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
