"""COCO's average precision from per-image records, so that any subset or resample of images can be
evaluated.

Each image is matched to its ground truth once, by COCO's rules, and kept as one row of numbers; the
metric of any rows is then a sort and a few sums. Libraries of COCO's metric keep the matching
inside an evaluation of the whole data set and need seconds, not milliseconds, for another subset;
the numbers here are tested equal to pycocotools'.

A row holds 2 * limit + classes numbers, each exact in float32 up to 284 classes:

    confidences[limit]   most confident first; 0 where there is no detection
    outcomes[limit]      class * 3**10 + one base-3 digit per IoU threshold: 0 false, 1 true,
                         2 ignored (in a crowd)
    counts[classes]      ground-truth boxes of each class, crowds left out
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensitivity.records import Scores
from sensitivity.tasks.detection_boxes import (
    Bools,
    Detections,
    Floats,
    Integers,
    areas,
    intersections,
)

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)

_ALL = (1 << len(IOUS)) - 1
_STATES = 3 ** len(IOUS)
_DIGITS = np.arange(_STATES) // 3 ** np.arange(len(IOUS))[:, None] % 3
_TRUE, _IGNORED = _DIGITS == 1, _DIGITS == 2
_TERNARY = (np.arange(1 << len(IOUS))[:, None] >> np.arange(len(IOUS)) & 1) @ 3 ** np.arange(
    len(IOUS)
)


@dataclass(frozen=True, eq=False)
class Truth:
    """Ground truth of a batch, padded to the same number of boxes.

    boxes: float64[n, most, 4], x1 y1 x2 y2. classes: int64[n, most], -1 where there is no box.
    crowd: bool[n, most]: detections inside it count neither for nor against.
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Overlaps:
    """How far detections of a batch meet its objects.

    values: float[n, limit, most], 0..1. ignored: bool[n, most], objects of which a detection counts
    neither for nor against: crowds, and such as have nothing to be compared. counted: bool[n,
    limit], detections that count at all; None for all of them.
    """

    values: Floats
    ignored: Bools
    counted: Bools | None = None


def mean_average_precision(scores: Scores, classes: int) -> float:
    """mAP50-95 of the images in these rows, 0..1: the mean over IoU thresholds and over the classes
    that occur.

    scores: float[n, 2 * limit + classes], from `image_scores`. 0.0 where no image holds a box to be
    found.
    """
    return _mean(average_precision(scores, classes))


def mean_average_precision_50(scores: Scores, classes: int) -> float:
    """mAP50: the same at the IoU threshold 0.5 alone."""
    return _mean(average_precision(scores, classes)[:1])


def average_precision(scores: Scores, classes: int) -> NDArray[np.float64]:
    """AP float64[10, classes] at each IoU threshold; nan for classes without ground truth in these
    images."""
    confidences, found, each = _columns(scores, classes)
    counts = each.sum(axis=0)
    labels, outcomes = _by_class(confidences, found, counts > 0)
    precision = _precision_sums(labels, outcomes, counts) / len(RECALLS)
    precision[:, counts == 0] = np.nan
    return precision


def outcomes_at_half(
    scores: Scores, classes: int
) -> tuple[Scores, NDArray[np.int64], Bools, Bools]:
    """Of each detection: its confidence (0 where there is none), its class, whether it is true at
    an overlap of half, and whether it is ignored there; each [n, limit]."""
    confidences, found, _ = _columns(scores, classes)
    labels, outcomes = np.divmod(found.astype(np.int64), _STATES)
    return confidences, labels, _TRUE[0][outcomes], _IGNORED[0][outcomes]


def sorted_hits(scores: Scores, classes: int) -> tuple[Integers, Bools, Scores]:
    """Of all detections of classes that occur, sorted by class and falling confidence: the class
    int[m], and whether each is true at each IoU threshold, bool[10, m]. And float[classes]: how
    many objects of each class there are."""
    confidences, found, each = _columns(scores, classes)
    counts = each.sum(axis=0)
    labels, outcomes = _by_class(confidences, found, counts > 0)
    return labels, _TRUE[:, outcomes], counts


def _columns(scores: Scores, classes: int) -> tuple[Scores, Scores, Scores]:
    """Confidences, outcomes and counts of these rows."""
    limit = (scores.shape[1] - classes) // 2
    return scores[:, :limit], scores[:, limit : 2 * limit], scores[:, 2 * limit :]


def image_scores(found: Detections, truth: Truth, classes: int) -> Scores:
    """One row per image, float64[n, 2 * limit + classes]; boxes of `found` and `truth` in the same
    coordinates."""
    overlaps = Overlaps(coco_iou(found.boxes, truth.boxes, truth.crowd), truth.crowd)
    return overlap_scores(found, truth, overlaps, classes)


def overlap_scores(found: Detections, truth: Truth, overlaps: Overlaps, classes: int) -> Scores:
    """The same where detections and truth overlap in another way than by their boxes, such as by
    masks."""
    hits, missed = match_overlaps(found, truth, overlaps)
    if overlaps.counted is not None:
        missed[~overlaps.counted] = _ALL
    outcomes = found.classes * _STATES + _TERNARY[hits] + 2 * _TERNARY[missed]
    n = len(truth.classes)
    counted = (truth.classes >= 0) & ~overlaps.ignored
    image, box = np.nonzero(counted)
    counts = np.bincount(
        image * classes + truth.classes[image, box], minlength=n * classes
    ).reshape(n, classes)
    return np.concatenate([found.confidences, outcomes, counts], axis=1, dtype=np.float64)


def match(found: Detections, truth: Truth) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which detections are true and which ignored, by their boxes; see `match_overlaps`."""
    overlap = coco_iou(found.boxes, truth.boxes, truth.crowd)
    return match_overlaps(found, truth, Overlaps(overlap, truth.crowd))


def match_overlaps(
    found: Detections, truth: Truth, overlaps: Overlaps
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which detections are true and which ignored, int64[n, limit] each: one bit per IoU threshold.

    As COCOeval.evaluateImg of pycocotools: in order of confidence, each detection takes the free
    object of its class that it overlaps most (of equal ones the last), else it is ignored where it
    meets one that is ignored. A crowd is never used up.
    """
    limit, most = found.classes.shape[1], truth.classes.shape[1]
    hits, missed = [0] * found.classes.size, [0] * found.classes.size
    free = [_ALL] * truth.classes.size
    for pair in _pairs(found, truth, overlaps):
        d, b = pair.image * limit + pair.detection, pair.image * most + pair.box
        won = pair.reach & free[b] & ~(hits[d] | missed[d])
        taken = missed if pair.ignored else hits
        taken[d] |= won
        if not pair.crowd:
            free[b] &= ~won
    shape = found.classes.shape
    return np.array(hits, np.int64).reshape(shape), np.array(missed, np.int64).reshape(shape)


class _Pair(NamedTuple):
    """A detection and an object that may match. reach: the IoU thresholds met, one bit each."""

    image: int
    detection: int
    box: int
    reach: int
    ignored: bool
    crowd: bool


def _pairs(found: Detections, truth: Truth, overlaps: Overlaps) -> Iterator[_Pair]:
    """All pairs that may match, in the order in which they are to be tried."""
    reported = found.confidences > 0
    if overlaps.counted is not None:
        reported &= overlaps.counted
    same = (found.classes[:, :, None] == truth.classes[:, None, :]) & reported[:, :, None]
    image, detection, box = np.nonzero(same & (overlaps.values >= IOUS[0]))
    value = overlaps.values[image, detection, box]
    ignored, crowd = overlaps.ignored[image, box], truth.crowd[image, box]
    order = np.lexsort((-box, -value, ignored, detection, image))
    # pycocotools lets an overlap of 1 - 1e-10 meet any threshold.
    met = np.searchsorted(np.minimum(IOUS, 1 - 1e-10), value, side="right")
    columns = (image, detection, box, (1 << met) - 1, ignored, crowd)
    return map(_Pair, *(column[order].tolist() for column in columns))


def coco_iou(boxes: Floats, truth: Floats, crowd: Bools) -> Floats:
    """float[n, limit, most]: intersection over union; over the detection's own area where the truth
    is a crowd."""
    shared, own = intersections(boxes, truth), areas(boxes)[:, :, None]
    union = np.where(crowd[:, None, :], own, own + areas(truth)[:, None, :] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _by_class(confidences: Scores, outcomes: Scores, present: Bools) -> tuple[Integers, Integers]:
    """Class and outcome of all detections of present classes, sorted by class and then by falling
    confidence.

    Of equal confidences the earlier image comes first, as in pycocotools.
    """
    label, outcome = np.divmod(outcomes.astype(np.int64), _STATES)
    at = np.flatnonzero((confidences > 0) & present[label])
    label, outcome = label.ravel()[at], outcome.ravel()[at]
    # One integer holds class, falling confidence (the bits of a positive float32 sort like it) and
    # position: sorting it is many times faster than a stable argsort. Fewer than 2**(33 - bits of
    # class) detections fit.
    falling = 0x7F800000 - confidences.ravel()[at].astype(np.float32).view(np.int32).astype(
        np.int64
    )
    bits = max(len(at) - 1, 1).bit_length()
    key = np.sort((label << 31 | falling) << bits | np.arange(len(at)))
    order = key & ((1 << bits) - 1)
    return label[order], outcome[order]


def _precision_sums(label: Integers, outcome: Integers, counts: Scores) -> NDArray[np.float64]:
    """Sum over the recall thresholds of the interpolated precision, float64[10, classes].

    Precision can only be highest, and recall only rises, at a true detection: the others are
    counted, not visited.
    """
    start = np.searchsorted(label, np.arange(len(counts)))
    some = np.flatnonzero(outcome)
    kind = label[some]
    true, ignored = _TRUE[:, outcome[some]], _IGNORED[:, outcome[some]]
    first = np.searchsorted(some, start[kind])
    level, at = np.nonzero(true)
    nth = _count_since(true, first)[level, at]
    seen = (some - start[kind] + 1)[at] - _count_since(ignored, first)[level, at]
    segment = level * len(counts) + kind[at]
    best = _falling_maximum(nth / seen, segment)
    total = counts[kind[at]]
    # Recall threshold r is met by the first n with n / total >= r; the threshold 0 by the first
    # detection.
    met = np.searchsorted(RECALLS, nth / total, side="right")
    met_before = np.where(nth > 1, np.searchsorted(RECALLS, (nth - 1) / total, side="right"), 0)
    sums = np.bincount(
        segment, weights=best * (met - met_before), minlength=len(IOUS) * len(counts)
    )
    return sums.reshape(len(IOUS), len(counts)).astype(np.float64)


def _count_since(flags: Bools, first: Integers) -> Integers:
    """Number of flags set from column first[j] up to and including j, int[rows, columns]."""
    running = np.cumsum(flags, axis=1)
    before = np.concatenate([np.zeros((len(flags), 1), running.dtype), running], axis=1)
    since: Integers = running - before[:, first]
    return since


def _falling_maximum(values: Floats, segment: Integers) -> Floats:
    """The largest of the values from here to the end of its segment. values in [0, 1]; segment
    never falls."""
    # An offset per segment keeps one segment's maximum out of the segment before it.
    offset = 2.0 * (segment[-1] - segment) if len(segment) else 0.0
    return np.maximum.accumulate((values + offset)[::-1])[::-1] - offset


def _mean(precision: NDArray[np.float64]) -> float:
    known = precision[:, ~np.isnan(precision[0])]
    return float(known.mean()) if known.size else 0.0
