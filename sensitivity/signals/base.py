"""A cheap signal: how much quantizing a unit disturbs the model, without the metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


@dataclass(frozen=True)
class Signal:
    """of: (outputs of the float model, outputs of a variant) -> distortion per sample float64[n], >= 0.

    view: what the model returned -> the arrays that are compared; None takes all of its floating-point arrays.
    """

    name: str
    of: Callable[[Outputs, Outputs], Scores]
    view: Callable[[Any], Outputs] | None = None
