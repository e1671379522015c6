"""Studies of fake models, whose layers are the units."""

from __future__ import annotations

from typing import Any

from sensitivity.measure.measurer import Measurer
from sensitivity.measure.study import Study
from sensitivity.quantizers.base import layers


def study_of(measurer: Measurer, model: Any = None) -> Study:
    """A measurer of a model that has quantizers.

    model: None for that of the task.
    """
    quantizers = (measurer.task.model if model is None else model).quantizers
    return Study(measurer, layers(quantizers), quantizers)
