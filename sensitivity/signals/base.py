"""A cheap signal: how much quantizing a unit disturbs the model, without the metric."""

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
"""(Outputs of the float model, outputs of a variant) -> distortion per sample float64[n], >= 0."""


@dataclass(frozen=True)
class Signal:
    """of: how far a variant is from float, from these samples alone.

    edition: what tells it, in a journal, from what it was in an earlier release.
    view: what the model returned -> the arrays that are compared; None takes all of its
    floating-point arrays.
    fitted: outputs of the float model, batch by batch -> the distance to use in place of `of` on
    this data; None: `of`.
    """

    name: str
    of: Distance
    view: Callable[[Any], Outputs] | None = None
    fitted: Callable[[Iterable[Outputs]], Distance] | None = None
    edition: str = ""
