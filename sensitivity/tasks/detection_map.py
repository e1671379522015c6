"""COCO's average precision from per-image records, so that any subset or resample of images can be
evaluated.

The detections of each image are matched to its ground truth once, by COCO's rules, and kept as one
row of numbers. The metric of any rows is then a sort and a few sums, which take milliseconds.
Libraries of COCO's metric keep the matching inside an evaluation of the whole data set, so another
subset takes them seconds. Tests compare the numbers with those of pycocotools.

A row holds 2 * limit + classes numbers, each exact in float32 up to 284 classes:

    confidences[limit]   most confident first; 0 where there is no detection
    outcomes[limit]      class * 3**10 + one base-3 digit per IoU threshold: 0 false positive,
                         1 true positive, 2 ignored (in a crowd)
    counts[classes]      ground-truth boxes of each class, without crowds
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
"""COCO's IoU thresholds."""

RECALLS = np.linspace(0.0, 1.0, 101)
"""COCO's recall thresholds, at which precision is interpolated."""

ALL = (1 << len(IOUS)) - 1
"""The bits of all IoU thresholds."""

STATES = 3 ** len(IOUS)
"""The number of outcomes that a detection of one class can have. In the last one, a detection is
ignored at all IoU thresholds."""

_POWERS = 3 ** np.arange(len(IOUS))
_DIGITS = np.arange(STATES) // _POWERS[:, None] % 3

_TRUE, _IGNORED = _DIGITS == 1, _DIGITS == 2
"""Whether each outcome is a true positive, and whether it is ignored, at each IoU threshold:
bool[10, outcomes]."""

_TERNARY = (np.arange(1 << len(IOUS))[:, None] >> np.arange(len(IOUS)) & 1) @ _POWERS
"""Bits of IoU thresholds -> the number whose base-3 digits they are."""


@dataclass(frozen=True, eq=False)
class Truth:
    """The ground truth of a batch, padded to the same number of boxes in each image.

    boxes: float64[n, most, 4], x1 y1 x2 y2.
    classes: int64[n, most], -1 where there is no box.
    crowd: bool[n, most], whether a box is a crowd. Detections in a crowd count neither for nor
        against the model.
    areas: float64[n, most], areas of the objects in square pixels. None takes those of the boxes.
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class Overlaps:
    """How far the detections of a batch overlap its objects.

    values: float[n, limit, most], 0..1.
    ignored: bool[n, most], objects whose detections count neither for nor against the model: crowds
        and objects that have nothing to compare with.
    counted: bool[n, limit], detections that count at all. None counts all of them.
    """

    values: Floats
    ignored: Bools
    counted: Bools | None = None


def mean_average_precision(scores: Scores, classes: int) -> float:
    """Return mAP50-95 of the images in these rows, 0..1: the mean of the average precision over the
    IoU thresholds and the classes that occur. It is 0.0 if no image holds a ground-truth box.

    scores: float[n, 2 * limit + classes], from `image_scores`.
    classes: the number of classes.
    """
    return _mean(average_precision(scores, classes))


def mean_average_precision_50(scores: Scores, classes: int) -> float:
    """Return mAP50, 0..1: as `mean_average_precision`, at the IoU threshold 0.5 alone."""
    return _mean(average_precision(scores, classes)[:1])


def average_precision(scores: Scores, classes: int) -> NDArray[np.float64]:
    """Return the average precision of each class at each IoU threshold, float64[10, classes]; nan
    for classes without ground truth in these images.

    scores: float[n, 2 * limit + classes], from `image_scores`.
    classes: the number of classes.
    """
    confidences, encoded, counts_by_image = _columns(scores, classes)
    counts = counts_by_image.sum(axis=0)
    labels, outcomes = _by_class(confidences, encoded, counts > 0)
    precision = _precision_sums(labels, outcomes, counts) / len(RECALLS)
    precision[:, counts == 0] = np.nan
    return precision


def outcomes(scores: Scores, classes: int) -> tuple[Scores, Bools, Bools]:
    """Return the confidence of each detection float[n, limit] (0 where there is none), and at each
    overlap threshold whether it is a true positive and whether it is ignored, bool[10, n, limit]
    each."""
    confidences, encoded, _ = _columns(scores, classes)
    numbers = encoded.astype(np.int64) % STATES
    return confidences, _TRUE[:, numbers], _IGNORED[:, numbers]


def outcomes_at_half(
    scores: Scores, classes: int
) -> tuple[Scores, NDArray[np.int64], Bools, Bools]:
    """Return the outcome of each detection at an overlap of half, in four arrays [n, limit].

    They hold the confidence (0 where there is no detection), the class, whether the detection is a
    true positive, and whether it is ignored.
    """
    confidences, encoded, _ = _columns(scores, classes)
    labels, outcomes = np.divmod(encoded.astype(np.int64), STATES)
    return confidences, labels, _TRUE[0][outcomes], _IGNORED[0][outcomes]


def sorted_hits(scores: Scores, classes: int) -> tuple[Integers, Bools, Scores]:
    """Return all detections of classes that occur, sorted by class and then by falling confidence.

    Returns the class of each detection int[m], whether it is a true positive at each IoU threshold
    bool[10, m], and the number of ground-truth objects of each class float[classes].
    """
    confidences, encoded, counts_by_image = _columns(scores, classes)
    counts = counts_by_image.sum(axis=0)
    labels, outcomes = _by_class(confidences, encoded, counts > 0)
    return labels, _TRUE[:, outcomes], counts


def _columns(scores: Scores, classes: int) -> tuple[Scores, Scores, Scores]:
    """Return the confidences, the outcomes with their classes, and the counts in these rows."""
    limit = (scores.shape[1] - classes) // 2
    return scores[:, :limit], scores[:, limit : 2 * limit], scores[:, 2 * limit :]


def image_scores(found: Detections, truth: Truth, classes: int) -> Scores:
    """Return one row for each image, float64[n, 2 * limit + classes], as described at the top of
    the module.

    found, truth: of one batch, with boxes in the same coordinates.
    classes: the number of classes.
    """
    overlaps = Overlaps(coco_iou(found.boxes, truth.boxes, truth.crowd), truth.crowd)
    return overlap_scores(found, truth, overlaps, classes)


def overlap_scores(found: Detections, truth: Truth, overlaps: Overlaps, classes: int) -> Scores:
    """Return one row for each image, as by `image_scores`, where detections and ground truth
    overlap in another way than by their boxes, such as by masks."""
    hits, ignored = match_overlaps(found, truth, overlaps)
    if overlaps.counted is not None:
        ignored[~overlaps.counted] = ALL
    outcomes = found.classes * STATES + outcome_numbers(hits, ignored)
    counts = object_counts(truth, overlaps.ignored, classes)
    return np.concatenate([found.confidences, outcomes, counts], axis=1, dtype=np.float64)


def outcome_numbers(hits: NDArray[np.int64], ignored: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of each outcome, 0 to `STATES` - 1.

    hits, ignored: as `match_overlaps` returns them.
    """
    numbers: NDArray[np.int64] = _TERNARY[hits] + 2 * _TERNARY[ignored]
    return numbers


def object_counts(truth: Truth, ignored: Bools, classes: int) -> NDArray[np.int64]:
    """Return the number of objects of each class in each image that are not ignored, int64[n,
    classes].

    ignored: bool[n, most].
    """
    n = len(truth.classes)
    image, box = np.nonzero((truth.classes >= 0) & ~ignored)
    image_and_class = image * classes + truth.classes[image, box]
    return np.bincount(image_and_class, minlength=n * classes).reshape(n, classes)


def match(found: Detections, truth: Truth) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which detections are true positives and which are ignored, by their boxes; see
    `match_overlaps`."""
    overlap = coco_iou(found.boxes, truth.boxes, truth.crowd)
    return match_overlaps(found, truth, Overlaps(overlap, truth.crowd))


def match_overlaps(
    found: Detections, truth: Truth, overlaps: Overlaps
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which detections are true positives and which are ignored, int64[n, limit] each, with
    one bit for each IoU threshold.

    The rules are those of COCOeval.evaluateImg of pycocotools. In the order of confidence, each
    detection takes the free object of its class that it overlaps most, and the last one of those
    that it overlaps equally. A detection that finds no free object is ignored if it overlaps an
    ignored object. A crowd can be taken any number of times.
    """
    limit, most = found.classes.shape[1], truth.classes.shape[1]
    hits, ignored = [0] * found.classes.size, [0] * found.classes.size
    free = [ALL] * truth.classes.size
    for pair in _pairs(found, truth, overlaps):
        detection, box = pair.image * limit + pair.detection, pair.image * most + pair.box
        unmatched = ~(hits[detection] | ignored[detection])
        matched = pair.reach & free[box] & unmatched
        outcome = ignored if pair.ignored else hits
        outcome[detection] |= matched
        if not pair.crowd:
            free[box] &= ~matched
    shape = found.classes.shape
    return np.array(hits, np.int64).reshape(shape), np.array(ignored, np.int64).reshape(shape)


class _Pair(NamedTuple):
    """A detection and an object that may match.

    image, detection, box: their indices.
    reach: the IoU thresholds that their overlap reaches, one bit each.
    ignored, crowd: whether the object is ignored, and whether it is a crowd.
    """

    image: int
    detection: int
    box: int
    reach: int
    ignored: bool
    crowd: bool


def _pairs(found: Detections, truth: Truth, overlaps: Overlaps) -> Iterator[_Pair]:
    """Return all pairs that may match, in the order in which they are tried."""
    is_reported = found.confidences > 0
    if overlaps.counted is not None:
        is_reported &= overlaps.counted
    is_same_class = found.classes[:, :, None] == truth.classes[:, None, :]
    may_match = is_same_class & is_reported[:, :, None] & (overlaps.values >= IOUS[0])
    image, detection, box = np.nonzero(may_match)
    value = overlaps.values[image, detection, box]
    ignored, crowd = overlaps.ignored[image, box], truth.crowd[image, box]
    order = np.lexsort((-box, -value, ignored, detection, image))
    # In pycocotools an overlap of 1 - 1e-10 reaches any threshold.
    thresholds_met = np.searchsorted(np.minimum(IOUS, 1 - 1e-10), value, side="right")
    columns = (image, detection, box, (1 << thresholds_met) - 1, ignored, crowd)
    return map(_Pair, *(column[order].tolist() for column in columns))


def coco_iou(boxes: Floats, truth: Floats, crowd: Bools) -> Floats:
    """Return COCO's overlap of each detection and each object, float[n, limit, most].

    It is the intersection over the union; for a crowd, the intersection over the area of the
    detection.
    """
    shared, own = intersections(boxes, truth), areas(boxes)[:, :, None]
    union = np.where(crowd[:, None, :], own, own + areas(truth)[:, None, :] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _by_class(confidences: Scores, outcomes: Scores, present: Bools) -> tuple[Integers, Integers]:
    """Return the class and the outcome of all detections of present classes, sorted by class and
    then by falling confidence. Of equally confident detections that of the earlier image comes
    first, as in pycocotools.

    outcomes: class * 3**10 + outcome, as in a row.
    present: bool[classes].
    """
    label, outcome = np.divmod(outcomes.astype(np.int64), STATES)
    selected = np.flatnonzero((confidences > 0) & present[label])
    label, outcome = label.ravel()[selected], outcome.ravel()[selected]
    # One integer holds the class, the falling confidence (the bits of positive float32 numbers sort
    # as the numbers do) and the position. Sorting it is many times faster than a stable argsort.
    # Fewer than 2**(33 - bits of the class) detections fit.
    confidence_bits = confidences.ravel()[selected].astype(np.float32).view(np.int32)
    falling = 0x7F800000 - confidence_bits.astype(np.int64)
    position_bits = max(len(selected) - 1, 1).bit_length()
    class_and_confidence = label << 31 | falling
    key = np.sort(class_and_confidence << position_bits | np.arange(len(selected)))
    order = key & ((1 << position_bits) - 1)
    return label[order], outcome[order]


def _precision_sums(label: Integers, outcome: Integers, counts: Scores) -> NDArray[np.float64]:
    """Return the sum of the interpolated precision over the recall thresholds, float64[10,
    classes].

    Only true positives are visited, and the other detections are counted: recall rises only at a
    true positive, so precision has its maxima there.

    label, outcome: int[m] each, sorted by class and then by falling confidence.
    counts: ground-truth objects of each class, float[classes].
    """
    class_start = np.searchsorted(label, np.arange(len(counts)))
    matched = np.flatnonzero(outcome)
    matched_label = label[matched]
    true, ignored = _TRUE[:, outcome[matched]], _IGNORED[:, outcome[matched]]
    first_of_class = np.searchsorted(matched, class_start[matched_label])
    level, hit = np.nonzero(true)
    hit_label = matched_label[hit]
    hits_so_far = _count_since(true, first_of_class)[level, hit]
    ignored_so_far = _count_since(ignored, first_of_class)[level, hit]
    rank_in_class = (matched - class_start[matched_label] + 1)[hit]
    precision = hits_so_far / (rank_in_class - ignored_so_far)
    segment = level * len(counts) + hit_label
    interpolated = _falling_maximum(precision, segment)
    total = counts[hit_label]
    # A recall threshold r is reached by the first true positive with hits_so_far / total >= r, and
    # the threshold 0 by the first true positive of the class.
    reached = np.searchsorted(RECALLS, hits_so_far / total, side="right")
    one_less = np.searchsorted(RECALLS, (hits_so_far - 1) / total, side="right")
    reached_before = np.where(hits_so_far > 1, one_less, 0)
    weights = interpolated * (reached - reached_before)
    sums = np.bincount(segment, weights=weights, minlength=len(IOUS) * len(counts))
    return sums.reshape(len(IOUS), len(counts)).astype(np.float64)


def _count_since(flags: Bools, first: Integers) -> Integers:
    """Return the number of flags set in columns first[j] to j, for each column j: int[rows,
    columns]."""
    running = np.cumsum(flags, axis=1)
    before = np.concatenate([np.zeros((len(flags), 1), running.dtype), running], axis=1)
    since: Integers = running - before[:, first]
    return since


def _falling_maximum(values: Floats, segment: Integers) -> Floats:
    """Return the largest value from each position to the end of its segment.

    values: float[m] in [0, 1].
    segment: int[m], numbers of segments, which never fall.
    """
    # An offset for each segment keeps its maximum out of the segments before it.
    offset = 2.0 * (segment[-1] - segment) if len(segment) else 0.0
    return np.maximum.accumulate((values + offset)[::-1])[::-1] - offset


def _mean(precision: NDArray[np.float64]) -> float:
    """Return the mean over the classes that occur; 0.0 if none does."""
    known = precision[:, ~np.isnan(precision[0])]
    return float(known.mean()) if known.size else 0.0
