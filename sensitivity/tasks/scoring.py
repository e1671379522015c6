"""What a file or model is judged by: some batches, and how outputs on them become the metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import ArrayLike

from sensitivity.records import Scores
from sensitivity.tasks.base import mean


def _nothing(variant: str, batch: int) -> Scores | None:
    return None


@dataclass(frozen=True)
class Scoring:
    """batches: (inputs, targets), iterable again and again in one order. score, aggregate,
    full_scale: as in a task.

    simulated: what the simulated model of a file's variant ("int8", "partial") scores on the batch
    of this number, None where that was not measured. of_files: scores of files in ONNX Runtime,
    by digest of the file and whether the runtime optimizes, as far as computed.
    """

    batches: Iterable[tuple[Any, Any]]
    score: Callable[[Any, Any], ArrayLike]
    aggregate: Callable[[Scores], float] = mean
    full_scale: float = 1.0
    simulated: Callable[[str, int], Scores | None] = _nothing
    of_files: dict[tuple[str, bool], Scores] = field(default_factory=dict)
