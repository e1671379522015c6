"""The difference between two nests of outputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sensitivity import optional

if TYPE_CHECKING:
    from torch import Tensor


TOLERANCE = 1e-4
"""Largest relative difference at which a graph that is not equal bit for bit is used. One value
that rounds the other way moves the outputs of most models by more than this."""


def same(one: Any, other: Any) -> bool:
    """Return whether two nests are equal bit for bit, up to the sign of zero; NaN equals NaN."""
    return difference(one, other) == 0


def difference(one: Any, other: Any) -> float:
    """Return the largest difference as a fraction of the largest finite value of its tensor in
    `one`.

    Returns inf if the structure, a shape, a type or the position of a value that is not finite
    differs.
    """
    ours, spec = optional.pytree.tree_flatten(one)
    theirs, other_spec = optional.pytree.tree_flatten(other)
    if spec != other_spec:
        return math.inf
    return max(map(_leaf, ours, theirs), default=0.0)


def _leaf(one: Any, other: Any) -> float:
    tensor = optional.torch.Tensor
    if isinstance(one, tensor) and isinstance(other, tensor):
        return _tensors(one, other)
    is_same = type(one) is type(other) and one == other
    return 0.0 if is_same else math.inf


def _tensors(one: Tensor, other: Tensor) -> float:
    equal = optional.torch.equal
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return math.inf
    if equal(one, other):
        return 0.0
    one, other = one.double(), other.double()
    finite = one.isfinite()
    if not equal(finite, other.isfinite()):
        return math.inf
    if not equal(one[~finite].nan_to_num(), other[~finite].nan_to_num()):
        return math.inf
    return _relative(one[finite], other[finite])


def _relative(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of finite values over the largest magnitude of `one`."""
    if one.numel() == 0:
        return 0.0
    largest = float(one.abs().max())
    return float((one - other).abs().max()) / max(largest, 1e-30)
