"""Ranks the units anew after each one that is left out, because effects interact and a ranking of
single units goes out of date.

On MobileNetV1 one layer hides all others: only once it is left out does the second one matter.
After each addition the cheap signal says, on a few samples, which of the next units brings the
outputs nearest to those of float.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sensitivity.measure.raced import measured_signal
from sensitivity.measure.study import Study
from sensitivity.planners.base import Distortion, Skip
from sensitivity.signals.base import Signal

SIGNAL_SAMPLES = 32

SET_SAMPLES = 8
"""Number of samples on which sets of a collapsed model are compared. Few are enough, because such
sets differ by much."""

CONTENDERS = 8
"""Number of units tried at each place: those that moved the outputs most when they were last
tried."""

MOST = 16
"""Number of places that are filled this way; a skip-set that needs more is hardly a partial one."""

SETTLED = 0.02
"""Fraction of the distortion of the fully quantized model below which the order no longer
matters."""


@dataclass(frozen=True)
class Order:
    """An order in which to leave units out.

    units: all units, the first to leave out first.
    signal: unit -> distortion that it takes away when the units before it are left out, >= 0. Units
        that were not tried share the remaining distortion in proportion to their own signals.
    """

    units: tuple[str, ...]
    signal: dict[str, float]


Enough = Callable[[Skip], bool]
"""Function that says of the units chosen so far whether no more have to be chosen."""


def reranked(
    study: Study,
    signal: Signal,
    alone: Mapping[str, float] | None = None,
    enough: Enough | None = None,
    *,
    samples: int = SIGNAL_SAMPLES,
) -> Order:
    """Return the order of forward selection on the signal: the remaining distortion decides, not
    the effect of a unit by itself.

    alone: unit -> signal when it alone is quantized; None measures it.
    enough: the other units keep the order of their latest signals once it holds; None never ends
        the selection early.
    samples: number of samples on which outputs are compared.
    Raises ModelError if outputs cannot be compared.
    """
    alone = alone or measured_signal(study, signal, samples)
    distortions = distortion_of(study, signal, samples)
    last = _largest_first(alone)
    chosen = list[str]()
    taken = dict[str, float]()
    (whole,) = distortions([()])
    left = whole
    while last and len(chosen) < MOST and left > SETTLED * whole:
        if enough is not None and enough(tuple(chosen)):
            break
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
    """Return the order of the units' own signals, for a model that has collapsed: forward selection
    sees only noise there.

    Errors of single units add up as long as they are small.

    alone: unit -> signal when it alone is quantized; None measures it.
    Raises ModelError if outputs cannot be compared.
    """
    alone = alone or measured_signal(study, signal)
    return Order(tuple(_largest_first(alone)), dict(alone))


def distortion_of(study: Study, signal: Signal, samples: int = SET_SAMPLES) -> Distortion:
    """Return a function that gives the mean distortion of the outputs with each skip-set, on the
    first samples of `rank`."""

    def distortions(skips: Sequence[Skip]) -> list[float]:
        variants = list(map(study.skip_variant, skips))
        measured = study.measurer.distortion(signal, variants, study.float_variant, samples)
        return [float(np.mean(values)) for values in measured]

    return distortions


def _shared(left: float, alone: Mapping[str, float]) -> dict[str, float]:
    """Return each unit's part of the remaining distortion, in proportion to the units' own
    signals."""
    total = sum(alone.values())
    share = left / total if total > 0 else 0.0
    return {name: value * share for name, value in _largest_first(alone).items()}
