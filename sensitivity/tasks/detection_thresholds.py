"""The confidence threshold that serves a detector best, and how far INT8 moves it.

mAP depends on the order of the confidences alone. It stays the same if all of them fall from 0.85
to 0.45, but a program that drops boxes under 0.5 then finds nothing. The report therefore shows the
threshold with the best F1 of each variant, and the F1 that is left at the float model's threshold.

Source: the F1 curve of ultralytics' `ap_per_class` (mean of the classes that occur, at an overlap
of half, smoothed). Its users take the peak as their threshold.
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
"""The confidence thresholds that are tried."""

WIDTH = 101
"""Neighbouring thresholds over which the curve is averaged before its peak is taken, a tenth of
all."""

RESAMPLES = 200
"""Bootstrap resamples of the images, from which intervals are computed."""

Curve = NDArray[np.float64]
"""A value at each of `THRESHOLDS`."""


@dataclass(frozen=True)
class ThresholdResult:
    """The best confidence thresholds, by variant.

    threshold: the threshold with the best F1, 0..1.
    f1: the F1 at that threshold, mean over the classes, 0..1.
    f1_kept: the F1 at the float model's threshold.
    shift: the threshold minus the float model's, of each variant but float. Its interval is from
        the same resampled images for both.
    """

    threshold: dict[str, Estimate]
    f1: dict[str, float]
    f1_kept: dict[str, float]
    shift: dict[str, Estimate]


@dataclass(frozen=True, eq=False)
class _Boxes:
    """All detections of some images that are not ignored at an overlap of half, and the number of
    ground-truth boxes.

    cell: int[m], class * thresholds + number of the last threshold that the confidence reaches.
    true: bool[m], whether a detection is a true positive.
    image: int[m], the index of the image.
    counts: float[images, classes], ground-truth boxes.
    """

    cell: NDArray[np.int64]
    true: NDArray[np.bool_]
    image: NDArray[np.int64]
    counts: NDArray[np.float64]


def threshold_result(
    scores: Mapping[str, Scores], classes: int, *, seed: int | None = None
) -> ThresholdResult | None:
    """Return the best confidence threshold of each variant; None if no image holds a ground-truth
    box.

    Intervals cover 95 %, by a bootstrap over the images. A single image gives no intervals.

    scores: variant -> rows of `image_scores`, all of the same images. "float" must be among them.
    classes: the number of classes.
    seed: of the bootstrap; None takes the seed of the command, --seed.
    """
    boxes = {variant: _boxes(rows, classes) for variant, rows in scores.items()}
    n = len(scores["float"])
    if not boxes["float"].counts.any():
        return None
    once = np.ones(n)
    curves = {variant: _f1_curve(own_boxes, once) for variant, own_boxes in boxes.items()}
    peaks = {variant: _peak(curve) for variant, curve in curves.items()}
    best = {variant: float(THRESHOLDS[peak]) for variant, peak in peaks.items()}
    resampled = _resampled_thresholds(boxes, n, seed)
    shifts = {
        variant: _estimate(threshold - best["float"], resampled[variant] - resampled["float"], n)
        for variant, threshold in best.items()
        if variant != "float"
    }
    return ThresholdResult(
        threshold={variant: _estimate(best[variant], resampled[variant], n) for variant in boxes},
        f1={variant: float(curves[variant][peaks[variant]]) for variant in boxes},
        f1_kept={variant: float(curves[variant][peaks["float"]]) for variant in boxes},
        shift=shifts,
    )


def _resampled_thresholds(
    boxes: Mapping[str, _Boxes], n: int, seed: int | None
) -> dict[str, NDArray[np.float64]]:
    """Return the best threshold of each variant in each resample of the n images, which are the
    same for all variants: variant -> float64[RESAMPLES]."""
    rng = generator(seed)
    peaks = {variant: np.empty(RESAMPLES, np.int64) for variant in boxes}
    for resample in range(RESAMPLES):
        times = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        for variant, own_boxes in boxes.items():
            peaks[variant][resample] = _peak(_f1_curve(own_boxes, times))
    return {variant: THRESHOLDS[own_peaks] for variant, own_peaks in peaks.items()}


def _boxes(scores: Scores, classes: int) -> _Boxes:
    confidences, labels, true, ignored = outcomes_at_half(scores, classes)
    image, number = np.nonzero((confidences > 0) & ~ignored)
    level = np.searchsorted(THRESHOLDS, confidences[image, number], side="right") - 1
    return _Boxes(
        labels[image, number] * len(THRESHOLDS) + level,
        true[image, number],
        image,
        scores[:, -classes:],
    )


def _f1_curve(boxes: _Boxes, times: NDArray[np.float64]) -> Curve:
    """Return the F1 at each threshold, mean over the classes that occur; zeros if none does.

    times: float[images], how many times each image counts.
    """
    counts = times @ boxes.counts
    shape = (len(counts), len(THRESHOLDS))

    def above_thresholds(weights: NDArray[np.float64]) -> Curve:
        """Return the sums of the weights of detections at or above each threshold, [classes,
        thresholds]."""
        sums = np.bincount(boxes.cell, weights=weights, minlength=shape[0] * shape[1])
        return np.asarray(sums.reshape(shape)[:, ::-1].cumsum(axis=1)[:, ::-1])

    weights = times[boxes.image]
    reported, true = above_thresholds(weights), above_thresholds(weights * boxes.true)
    present = counts > 0
    if not present.any():
        return np.zeros(len(THRESHOLDS))
    f1 = 2 * true[present] / (reported[present] + counts[present, None])
    return np.asarray(f1.mean(axis=0))


def _peak(curve: Curve) -> int:
    """Return the number of the threshold at which the smoothed curve is highest, the lowest one of
    several."""
    side = WIDTH // 2
    padded = np.concatenate([np.full(side, curve[0]), curve, np.full(side, curve[-1])])
    smoothed = np.convolve(padded, np.ones(WIDTH) / WIDTH, mode="valid")
    return int(np.argmax(smoothed))


def _estimate(value: float, resampled: NDArray[np.float64], n: int) -> Estimate:
    """Return the value with its 95 % interval from bootstrap resamples of n images."""
    if n < 2:
        return Estimate(value, None, None, n)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value, min(float(low), value), max(float(high), value), n)
