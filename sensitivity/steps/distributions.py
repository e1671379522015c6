"""What the quantizers of a model get on a few calibration samples, kept with a scan so that the
report can say why a layer hurts."""

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
"""At least, in whole batches: a model may take no others."""


def distributions(session: Session) -> Distributions | None:
    """Of all weights, and of activations on the first samples that calibration takes; None where
    the model does not show them, or the task gives no inputs.

    Takes one forward of `SAMPLES` samples in float, of which a scan takes one for every quantizer.
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
    return Distributions(samples, tuple(_found(session.source, seen)))


def _found(source: Any, seen: dict[str, Histogram]) -> Iterator[Distribution]:
    quantizers = {quantizer.name: quantizer for quantizer in source.quantizers}
    for name, weight, axis in source.weights():
        found = of_weight(quantizers[name], weight, _grid(source, name), axis)
        if found is not None:
            yield found
    for name, histogram in seen.items():
        found = of_activation(quantizers[name], histogram, _grid(source, name))
        if found is not None:
            yield found


def _grid(source: Any, name: str) -> Grid | None:
    """None where it is no integer grid, or one per channel of an activation."""
    try:
        grid: Grid = source.grid(name)
    except ModelError:
        return None
    return grid
