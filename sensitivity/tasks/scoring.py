"""What a file or model is judged by: some batches, and how outputs on them become the metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from sensitivity.records import Scores
from sensitivity.tasks.base import mean


@dataclass(frozen=True)
class Scoring:
    """batches: (inputs, targets), iterable again and again in one order. score, aggregate,
    full_scale: as in a task."""

    batches: Iterable[tuple[Any, Any]]
    score: Callable[[Any, Any], ArrayLike]
    aggregate: Callable[[Scores], float] = mean
    full_scale: float = 1.0
