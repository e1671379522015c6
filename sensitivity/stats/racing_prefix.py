"""Which prefix of a ranking to try next on `confirm`: interpolation instead of bisection.

Quantization noise of different units adds up, and for small noise the loss of a metric grows with its variance, so the
loss of a skip-set is about proportional to the signal (output distortion) of the units that stay quantized. That only
chooses what to try; whether a prefix meets the target is measured. A plan on a plateau of the curve, where bisection
needs log2(units) near-undecidable answers, then takes two or three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Tried:
    """A prefix that was judged. size: units skipped; loss: mean loss against float so far; n: samples it rests on."""

    size: int
    loss: float
    n: int
    met: bool


def next_size(signal: ArrayLike, tried: Sequence[Tried], allowed: float) -> int | None:
    """How many units of the ranking to skip in the next try; None when there is nothing left to learn.

    signal: float[units] >= 0 in ranking order, largest first: mean squared distortion of the outputs when only this unit
        is quantized. tried: what was judged so far, in any order. allowed: the largest loss that meets the target.
    Starts with 0, everything quantized, and never repeats a size. The answer is the smallest size that met the target;
    one or a few units fewer may do where the signal gave no hope for them. With none that met, skipping all was tried.
    Raises ValueError for a signal that is negative or not finite.
    """
    noise = np.asarray(signal, dtype=np.float64)
    if noise.ndim != 1 or not np.isfinite(noise).all() or (noise < 0).any():
        raise ValueError(f"Expected a finite signal >= 0 for each unit, got shape {noise.shape}.")
    if not tried:
        return 0
    failed = max((one.size for one in tried if not one.met), default=-1)
    met = min((one.size for one in tried if one.met), default=None)
    between = range(failed + 1, len(noise) + 1 if met is None else met)
    left = np.append(np.cumsum(noise[::-1])[::-1], 0.0)
    hopeful = [size for size in between if predicted_loss(left, tried, size) <= allowed]
    if hopeful:
        return hopeful[0]
    if met is None:
        return len(noise) if failed < len(noise) else None
    # The signal has been far off: halve what is left to search, as bisection does.
    return (failed + met) // 2 if met - failed > max(3, met // 2) else None


def predicted_loss(left: ArrayLike, tried: Sequence[Tried], size: int) -> float:
    """Loss at `size` from the loss per signal of the tries, weighted by their samples and by how near they are.

    left: float[units + 1], the signal left when so many units are skipped.
    """
    remains = np.asarray(left, dtype=np.float64)
    none = 1e-9 * remains[0]
    if remains[size] <= none:
        return 0.0
    known = [one for one in tried if remains[one.size] > none]
    if not known:
        return np.inf
    apart = np.array([abs(np.log(remains[one.size] / remains[size])) for one in known])
    weight = np.array([one.n for one in known]) / (0.1 + apart)
    slope = np.array([max(one.loss, 0.0) / remains[one.size] for one in known])
    return float(weight @ slope / weight.sum() * remains[size])
