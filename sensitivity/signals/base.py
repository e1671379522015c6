"""Interface of a cheap signal: how much quantizing a unit disturbs the model, without the
metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sensitivity.records import Scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Outputs = Sequence[NDArray[np.floating]]
    """All tensors of the model's outputs, each float[n, ...]."""
else:
    Outputs = Any


Distance = Callable[[Outputs, Outputs], Scores]
"""Function of the float model's outputs and a variant's outputs that returns the distortion of each
sample, float64[n], >= 0."""


@dataclass(frozen=True)
class Signal:
    """A measure of how far a variant's outputs are from float's.

    name: its name in the registry.
    of: the distance, which needs these samples alone.
    view: turns what the model returned into the arrays that are compared; None takes all of its
        floating-point arrays.
    fitted: turns outputs of the float model, batch by batch, into the distance to use in place of
        `of` on this data; None keeps `of`.
    edition: text that tells it, in a journal, from the signal of an earlier release.
    """

    name: str
    of: Distance
    view: Callable[[Any], Outputs] | None = None
    fitted: Callable[[Iterable[Outputs]], Distance] | None = None
    edition: str = ""
