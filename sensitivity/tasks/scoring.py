"""Holds what evaluates a file or model: batches, and the functions that turn outputs into the
metric."""

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
    """The data and the metric of an evaluation.

    batches: (inputs, targets), which can be iterated any number of times in the same order.
    score, aggregate, full_scale: as in a task.
    simulated: (variant, number of a batch) -> the scores of the simulated model of this variant,
        "int8" or "partial", on that batch; None if it was not measured.
    of_int8: whether the metric of files with everything in INT8 is compared too, where the plan's
        file is another one.
    of_files: (digest of a file, whether the runtime optimizes it) -> the scores of that file in
        ONNX Runtime, as far as they were computed.
    """

    batches: Iterable[tuple[Any, Any]]
    score: Callable[[Any, Any], ArrayLike]
    aggregate: Callable[[Scores], float] = mean
    full_scale: float = 1.0
    simulated: Callable[[str, int], Scores | None] = _nothing
    of_int8: bool = True
    of_files: dict[tuple[str, bool], Scores] = field(default_factory=dict)

    def of(self, variant: str) -> Scoring | None:
        """Return this scoring for a variant whose metric is compared, else None."""
        return self if variant != "int8" or self.of_int8 else None
