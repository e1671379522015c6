"""Simulator for tasks that only have `evaluate(model) -> float`: one whole evaluation per
variant."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sensitivity.errors import SensitivityError, TaskError
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.quantizers.torch.calls import every_module_called


class EvaluateSimulator:
    """Simulator that yields the metric itself, a finite float, in place of outputs. Its `inputs`
    are the user's function evaluate(model).

    Raises TaskError, with the user's exception as its cause, if `evaluate` fails or does not return
    a finite number.
    """

    name = "evaluate"
    smallest = None
    warnings: tuple[str, ...] = ()
    reason = "the task has only evaluate(model), so each variant is a whole evaluation"

    def __init__(self, source: QuantizedModel) -> None:
        self._source = source

    def outputs(
        self, inputs: Callable[[Any], float], variants: Sequence[frozenset[str]]
    ) -> Iterator[tuple[int, float]]:
        for index, disabled in enumerate(variants):
            with self._source.disabled(disabled):
                metric = self._metric(inputs)
            yield index, metric

    def _metric(self, evaluate: Callable[[Any], float]) -> float:
        try:
            with every_module_called():
                metric = float(evaluate(self._source.model))
        except SensitivityError:
            raise
        except Exception as error:
            raise TaskError(
                f"Expected evaluate(model) to return a number, got {type(error).__name__}: "
                f"{error}; run it on the model by hand to see where."
            ) from error
        if not math.isfinite(metric):
            raise TaskError(
                f"Expected evaluate(model) to return a finite number, got {metric}; "
                "check the metric for a division by zero, or the model for NaN outputs."
            )
        return metric
