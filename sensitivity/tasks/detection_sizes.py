"""Average precision of small, medium and large objects, as COCO reports it.

For one size, COCO ignores the objects of other sizes and judges anew which detection finds which
object. A detection that finds no object is ignored if its own box is of another size. The outcomes
of a size therefore do not follow from those of all objects, and records hold them beside the
others. The sizes of an image take limit + classes numbers, each exact in float64:

    outcomes[limit]      one base-3**10 digit per size, as the outcomes of `detection_map`
    counts[classes]      one base-2**17 digit per size: ground-truth boxes of each class

Source: COCOeval.evaluateImg of pycocotools, with which tests compare the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sensitivity.records import Scores
from sensitivity.tasks.detection_boxes import Bools, Detections, Floats, areas
from sensitivity.tasks.detection_map import (
    ALL,
    STATES,
    Overlaps,
    Truth,
    coco_iou,
    match_overlaps,
    object_counts,
    outcome_numbers,
)

SIZES: Mapping[str, tuple[float, float]] = {
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e10),
}
"""The smallest and the largest area of each size in square pixels of the image, both included."""

_COUNTS = 1 << 17
"""More ground-truth boxes than an image holds."""


def size_scores(found: Detections, truth: Truth, classes: int) -> Scores:
    """Return the sizes of each image, float64[n, limit + classes], as described at the top of the
    module.

    found, truth: of one batch, with boxes in pixels of the image.
    classes: the number of classes.
    """
    overlap = coco_iou(found.boxes, truth.boxes, truth.crowd)
    found_areas = areas(found.boxes)
    true_areas = areas(truth.boxes) if truth.areas is None else truth.areas
    outcomes = np.zeros(found.classes.shape, np.int64)
    counts = np.zeros((len(truth.classes), classes), np.int64)
    for number, limits in enumerate(SIZES.values()):
        overlaps = Overlaps(overlap, truth.crowd | _is_outside(true_areas, limits))
        hits, ignored = match_overlaps(found, truth, overlaps)
        unmatched = ALL & ~(hits | ignored)
        ignored |= np.where(_is_outside(found_areas, limits), unmatched, 0)
        outcomes += outcome_numbers(hits, ignored) * STATES**number
        counts += object_counts(truth, overlaps.ignored, classes) * _COUNTS**number
    return np.concatenate([outcomes, counts], axis=1, dtype=np.float64)


def rows_of_size(rows: Scores, sizes: Scores, classes: int, size: str) -> Scores:
    """Return rows of `image_scores` that judge the objects of one size alone.

    rows: rows of `image_scores`, float[n, 2 * limit + classes].
    sizes: of the same images, from `size_scores`.
    classes: the number of classes.
    size: a key of `SIZES`.
    """
    limit = sizes.shape[1] - classes
    outcomes = _digit(sizes[:, :limit], STATES, size)
    counts = _digit(sizes[:, limit:], _COUNTS, size)
    is_ignored = outcomes == STATES - 1
    confidences = np.where(is_ignored, 0, rows[:, :limit])
    labels = rows[:, limit : 2 * limit] // STATES
    return np.concatenate([confidences, labels * STATES + outcomes, counts], axis=1)


def _digit(numbers: Scores, base: int, size: str) -> NDArray[np.int64]:
    """Return the digit of a size."""
    place = base ** list(SIZES).index(size)
    digits: NDArray[np.int64] = numbers.astype(np.int64) // place % base
    return digits


def _is_outside(object_areas: Floats, limits: tuple[float, float]) -> Bools:
    smallest, largest = limits
    return (object_areas < smallest) | (object_areas > largest)
