"""The order of the units once the first ones are out: effects interact, so a ranking of units alone
goes out of date.

On MobileNetV1 one layer hides all others: only when it is out does it matter what the second one
is. After each addition the cheap signal says, on a few samples, which of the next units brings the
outputs nearest to those of float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sensitivity.measure.raced import measured_signal
from sensitivity.measure.study import Study
from sensitivity.planners.base import Distortion, Skip
from sensitivity.signals.base import Signal

SIGNAL_SAMPLES = 32

SET_SAMPLES = 8
"""For comparing sets of a model that has collapsed, which differ by much."""

CONTENDERS = 8
"""Units tried at each place: those that moved the outputs most when they were tried last."""

MOST = 16
"""Places that are filled so; a skip-set that needs more is hardly a partial one."""

SETTLED = 0.02
"""Part of the distortion of all of INT8 below which the order no longer matters."""


@dataclass(frozen=True)
class Order:
    """units: all of them, the first to leave out first. signal: what each takes from the distortion
    when those before it are out already, >= 0; those that were not tried share what is left as
    their own signals do."""

    units: tuple[str, ...]
    signal: dict[str, float]


def reranked(study: Study, signal: Signal, alone: Mapping[str, float] | None = None) -> Order:
    """Forward selection on the signal: what is left of the distortion decides, not what a unit does
    by itself.

    alone: unit -> signal when it alone is quantized; measured where it is None. Raises ModelError
    where outputs cannot be compared.
    """
    alone = alone or measured_signal(study, signal, SIGNAL_SAMPLES)
    distortions = distortion_of(study, signal, SIGNAL_SAMPLES)
    last = _largest_first(alone)
    chosen = list[str]()
    taken = dict[str, float]()
    (whole,) = distortions([()])
    left = whole
    while last and len(chosen) < MOST and left > SETTLED * whole:
        contenders = list(_largest_first(last))[:CONTENDERS]
        measured = distortions([(*chosen, name) for name in contenders])
        after = dict(zip(contenders, measured, strict=True))
        best = min(after, key=after.__getitem__)
        last |= {name: left - after[name] for name in contenders}
        del last[best]
        chosen.append(best)
        taken[best] = max(left - after[best], 0.0)
        left = after[best]
    rest = {name: alone[name] for name in last}
    return Order((*chosen, *last), taken | _shared(left, rest))


def _largest_first(signal: Mapping[str, float]) -> dict[str, float]:
    """Return the same values by unit, the largest first; equal ones stay in their order."""
    names = sorted(signal, key=signal.__getitem__, reverse=True)
    return {name: signal[name] for name in names}


def by_signal(study: Study, signal: Signal, alone: Mapping[str, float] | None = None) -> Order:
    """Return the order of what each unit alone does, for a model that has collapsed: from there
    forward selection sees only noise.

    Arguments and errors as in `reranked`. Errors of single units add up as long as they are small.
    """
    alone = alone or measured_signal(study, signal)
    return Order(tuple(_largest_first(alone)), dict(alone))


def distortion_of(study: Study, signal: Signal, samples: int = SET_SAMPLES) -> Distortion:
    """Return the skip-sets -> mean distortion of the outputs with each left out, on the first
    samples of `rank`."""

    def distortions(skips: Sequence[Skip]) -> list[float]:
        variants = list(map(study.skip_variant, skips))
        measured = study.measurer.distortion(signal, variants, study.float_variant, samples)
        return [float(np.mean(values)) for values in measured]

    return distortions


def _shared(left: float, alone: Mapping[str, float]) -> dict[str, float]:
    """Return what is left of the distortion, in proportion to the units' own signals."""
    total = sum(alone.values())
    share = left / total if total > 0 else 0.0
    return {name: value * share for name, value in _largest_first(alone).items()}
