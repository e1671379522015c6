"""The calibration inputs that a repair is fitted on, as one batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sensitivity import optional
from sensitivity.tasks.batches import batch_size, first_samples

MOST_SAMPLES = 256
MOST_BYTES = 128 * 2**20
"""Of the inputs: what one forward of a convolutional network holds at once is ten to thirty times
as much."""


def one_batch(batches: Iterable[Any]) -> Any:
    """The samples of these batches of inputs as one batch, as far as the limits above allow.

    Batches whose samples have another shape than the first are left out. Where inputs are not
    tensors alone the first batch is all.
    """
    batches = iter(batches)
    first = next(batches)
    leaves, spec = optional.pytree.tree_flatten(first)
    if not all(isinstance(leaf, optional.torch.Tensor) and leaf.ndim for leaf in leaves):
        return first
    size = sum(leaf.nbytes for leaf in leaves)
    most = min(MOST_SAMPLES, max(1, batch_size(first) * MOST_BYTES // max(size, 1)))
    rows, samples = [leaves], batch_size(first)
    for inputs in batches:
        if samples >= most:
            break
        others = optional.pytree.tree_leaves(inputs)
        if [leaf.shape[1:] for leaf in others] == [leaf.shape[1:] for leaf in leaves]:
            rows.append(others)
            samples += batch_size(inputs)
    joined = [optional.torch.cat(column) for column in zip(*rows, strict=True)]
    return first_samples(optional.pytree.tree_unflatten(joined, spec), most)
