"""The confidence threshold that serves a detector best, and how far INT8 moves it.

mAP looks at the order of confidences alone: it holds where all of them fall from 0.85 to 0.45, and
a program that drops boxes under 0.5 then finds nothing. So the threshold with the best F1 is told
of each variant, and what F1 is left at the one that float had.

Source: the F1 curve of ultralytics' `ap_per_class` (mean of the classes that occur, overlap of
half, smoothed), whose peak its users take as threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sensitivity.records import Estimate, Scores
from sensitivity.seeds import generator
from sensitivity.tasks.detection_map import outcomes_at_half

THRESHOLDS = np.linspace(0.0, 1.0, 1000)
"""Those that are tried."""

WIDTH = 101
"""Neighbouring thresholds that the curve is averaged over before its peak is taken: a tenth of
all."""

RESAMPLES = 200
"""Of the images, for the intervals."""

Curve = NDArray[np.float64]


@dataclass(frozen=True)
class ThresholdResult:
    """By variant. threshold: with the best F1, 0..1. f1: mean of the classes there. f1_kept: the
    same at float's threshold.

    shift: threshold minus float's, of each variant but float, on the same resampled images.
    """

    threshold: dict[str, Estimate]
    f1: dict[str, float]
    f1_kept: dict[str, float]
    shift: dict[str, Estimate]


@dataclass(frozen=True, eq=False)
class _Boxes:
    """All detections of some images that are not ignored at an overlap of half, and the boxes to be
    found.

    place: int[m], class * thresholds + number of the last threshold that the confidence reaches.
    true: bool[m]. image: int[m]. counts: float[images, classes].
    """

    place: NDArray[np.int64]
    true: NDArray[np.bool_]
    image: NDArray[np.int64]
    counts: NDArray[np.float64]


def threshold_result(
    scores: Mapping[str, Scores], classes: int, *, seed: int | None = None
) -> ThresholdResult | None:
    """scores: variant -> rows of `image_scores`, float's under "float", all of the same images.

    Intervals hold 95 %, by bootstrap of the images; None of them for a single image. None where no
    image holds a box to be found.
    """
    boxes = {variant: _boxes(rows, classes) for variant, rows in scores.items()}
    n = len(scores["float"])
    if not boxes["float"].counts.any():
        return None
    curves = {variant: _f1_curve(one, np.ones(n)) for variant, one in boxes.items()}
    peaks = {variant: _peak(curve) for variant, curve in curves.items()}
    rng = generator(seed)
    drawn = {variant: np.empty(RESAMPLES, np.int64) for variant in boxes}
    for at in range(RESAMPLES):
        times = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        for variant, one in boxes.items():
            drawn[variant][at] = _peak(_f1_curve(one, times))
    found = {variant: THRESHOLDS[numbers] for variant, numbers in drawn.items()}
    best = {variant: float(THRESHOLDS[peak]) for variant, peak in peaks.items()}
    return ThresholdResult(
        {variant: _estimate(best[variant], found[variant], n) for variant in boxes},
        {variant: float(curves[variant][peaks[variant]]) for variant in boxes},
        {variant: float(curves[variant][peaks["float"]]) for variant in boxes},
        {
            variant: _estimate(best[variant] - best["float"], found[variant] - found["float"], n)
            for variant in boxes
            if variant != "float"
        },
    )


def _boxes(scores: Scores, classes: int) -> _Boxes:
    confidences, labels, true, ignored = outcomes_at_half(scores, classes)
    image, at = np.nonzero((confidences > 0) & ~ignored)
    level = np.searchsorted(THRESHOLDS, confidences[image, at], side="right") - 1
    return _Boxes(
        labels[image, at] * len(THRESHOLDS) + level,
        true[image, at],
        image,
        scores[:, -classes:],
    )


def _f1_curve(boxes: _Boxes, times: NDArray[np.float64]) -> Curve:
    """F1 at each threshold, mean of the classes that occur; times: how often each image counts."""
    counts = times @ boxes.counts
    shape = (len(counts), len(THRESHOLDS))

    def kept(weights: NDArray[np.float64]) -> Curve:
        """Of each class, what has at least the confidence of each threshold."""
        at = np.bincount(boxes.place, weights=weights, minlength=shape[0] * shape[1])
        return np.asarray(at.reshape(shape)[:, ::-1].cumsum(axis=1)[:, ::-1])

    each = times[boxes.image]
    reported, true = kept(each), kept(each * boxes.true)
    present = counts > 0
    f1 = 2 * true[present] / (reported[present] + counts[present, None])
    return np.asarray(f1.mean(axis=0)) if present.any() else np.zeros(len(THRESHOLDS))


def _peak(curve: Curve) -> int:
    """Where the smoothed curve is highest, the lowest threshold of equals."""
    side = WIDTH // 2
    padded = np.concatenate([np.full(side, curve[0]), curve, np.full(side, curve[-1])])
    return int(np.argmax(np.convolve(padded, np.ones(WIDTH) / WIDTH, mode="valid")))


def _estimate(value: float, drawn: NDArray[np.float64], n: int) -> Estimate:
    if n < 2:
        return Estimate(value, None, None, n)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, min(float(low), value), max(float(high), value), n)
