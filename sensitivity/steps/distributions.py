"""Distributions of the values at a model's quantizers, stored with a scan so that the report can
explain why a layer is sensitive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import ModelError
from sensitivity.quantizers.base import Watchable
from sensitivity.quantizers.distributions import of_activation, of_weight, thinned
from sensitivity.quantizers.histogram import Histogram
from sensitivity.records import Distribution, Distributions, Grid
from sensitivity.session import Session
from sensitivity.tasks.batches import batch_size

SAMPLES = 16
"""Smallest number of calibration samples, rounded up to whole batches because a model may take no
other batch size."""


def distributions(session: Session) -> Distributions | None:
    """Return the distributions of all weights, and of activations on the first calibration samples.

    Returns None if the model does not expose its values, or if the task gives no inputs. This takes
    one forward of `SAMPLES` samples in float; a scan takes one for every quantizer.
    """
    batches = session.calibration()
    if batches is None or not isinstance(session.source, Watchable):
        return None
    seen: dict[str, Histogram] = defaultdict(Histogram)

    def see(name: str, values: NDArray[np.floating]) -> None:
        seen[name].add(thinned(values))

    samples = 0
    with session.source.watching(see):
        for inputs in batches:
            session.forward(inputs)
            samples += batch_size(inputs)
            if samples >= SAMPLES:
                break
    return Distributions(samples, tuple(_distributions_of(session.source, seen)))


def _distributions_of(source: Any, seen: dict[str, Histogram]) -> Iterator[Distribution]:
    quantizers = {quantizer.name: quantizer for quantizer in source.quantizers}
    for name, weight, axis in source.weights():
        distribution = of_weight(quantizers[name], weight, _grid(source, name), axis)
        if distribution is not None:
            yield distribution
    for name, histogram in seen.items():
        distribution = of_activation(quantizers[name], histogram, _grid(source, name))
        if distribution is not None:
            yield distribution


def _grid(source: Any, name: str) -> Grid | None:
    """Return the integer grid of a quantizer.

    Returns None for a format without an integer grid, and for an activation with a grid per
    channel.
    """
    try:
        grid: Grid = source.grid(name)
    except ModelError:
        return None
    return grid
