"""Rotated boxes: their overlap, their suppression, and mAP50-95 as ultralytics computes it.

A rotated box is x y width height angle: its centre and size in pixels, and the direction of its
width in radians.

Source: the probabilistic overlap, 1 minus the Hellinger distance of Gaussians that stand for the
boxes (arXiv 2106.06072), and Fast NMS (arXiv 1904.02689), both as in ultralytics. Other tools
measure the overlap of the rectangles themselves. Rotated boxes have no common metric, as upright
boxes have COCO's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import TaskError
from sensitivity.records import Scores
from sensitivity.tasks.batches import as_numpy
from sensitivity.tasks.detection import Aggregate, DetectionScore, Figure
from sensitivity.tasks.detection_boxes import (
    CHUNK,
    Bools,
    Detections,
    Floats,
    Integers,
    Suppression,
    decode_chosen,
    decode_ultralytics,
    detections,
    more_values,
)
from sensitivity.tasks.detection_images import Geometry
from sensitivity.tasks.detection_labels import LabelledImage
from sensitivity.tasks.detection_map import (
    IOUS,
    RECALLS,
    Overlaps,
    Truth,
    overlap_scores,
    sorted_hits,
)

TINY = 1e-7
"""Keeps quotients and roots finite, as in ultralytics."""

LIMIT = 300
"""The most detections in an image that count, unless an image shows more objects."""


def rotated_rule(images: Iterable[LabelledImage], *, suppress: bool = True) -> Suppression:
    """Return the rule that ultralytics validates rotated boxes by: candidates above a confidence of
    0.01, at most `LIMIT` or as many as the image with the most objects shows.

    suppress: whether overlapping boxes suppress each other; False for a model that chooses its
        boxes itself.
    """
    limit = max([LIMIT, *(len(image.boxes) for image in images)])
    overlap = 0.7 if suppress else 1.0
    return Suppression(confidence=0.01, iou=overlap, limit=limit, per_class=limit)


def decode_rotated(outputs: Any, classes: int, *, chosen: bool = False) -> tuple[Floats, Floats]:
    """Return rotated boxes float[n, anchors, 5] and confidences float[n, classes, anchors].

    outputs: ultralytics' [n, 4 + classes + 1, anchors]: centre and size in input pixels,
        confidences, angle.
    classes: the number of classes.
    chosen: whether the model chooses its boxes itself; its output is then [n, most, 7]: centre,
        size, confidence, class, angle.
    Raises TaskError if there is not exactly one value for the angle.
    """
    angle = more_values(outputs, classes, chosen=chosen)
    if angle.shape[2] != 1:
        raise TaskError(
            "Expected one angle with each box of a model of rotated boxes, got "
            f"{angle.shape[2]} numbers after {classes} classes; use the data set that the model "
            "was trained for."
        )
    decode = decode_chosen if chosen else decode_ultralytics
    boxes, confidences = decode(outputs, classes)
    if not chosen:  # `decode_ultralytics` has turned centre and size into corners.
        low, high = boxes[..., :2], boxes[..., 2:]
        boxes = np.concatenate([(low + high) / 2, high - low], axis=-1)
    return np.concatenate([boxes, angle], axis=-1), confidences


def rotated_overlap(first: Floats, second: Floats) -> Floats:
    """Return the probabilistic overlap float[...], 0..1, of two arrays of boxes [..., 5], broadcast
    together.

    It is 1 minus the Hellinger distance, which follows from the Bhattacharyya distance of the
    Gaussians. That distance has a term for the means and one for the covariances.
    """
    x1, y1, xx1, yy1, xy1 = _gaussian(first)
    x2, y2, xx2, yy2, xy2 = _gaussian(second)
    xx, yy, xy = xx1 + xx2, yy1 + yy2, xy1 + xy2
    determinant = xx * yy - xy**2
    means = (xx * (y1 - y2) ** 2 + yy * (x1 - x2) ** 2) / (determinant + TINY) / 4
    means = means + xy * (x2 - x1) * (y1 - y2) / (determinant + TINY) / 2
    determinant1 = np.maximum(xx1 * yy1 - xy1**2, 0)
    determinant2 = np.maximum(xx2 * yy2 - xy2**2, 0)
    scale = 4 * np.sqrt(determinant1 * determinant2) + TINY
    covariances = np.log(determinant / scale + TINY) / 2
    bhattacharyya = np.clip(means + covariances, TINY, 100)
    hellinger = np.sqrt(1 - np.exp(-bhattacharyya) + TINY)
    overlap: Floats = 1 - hellinger
    return overlap


def _gaussian(boxes: Floats) -> tuple[Floats, ...]:
    """Return the mean (x, y) and the covariance (xx, yy, xy) of the Gaussians that stand for boxes
    [..., 5]."""
    x, y, width, height, angle = np.moveaxis(boxes.astype(np.float64), -1, 0)
    along, across = width**2 / 12, height**2 / 12
    cos, sin = np.cos(angle), np.sin(angle)
    xx = along * cos**2 + across * sin**2
    yy = along * sin**2 + across * cos**2
    return x, y, xx, yy, (along - across) * cos * sin


def suppress_rotated(
    boxes: Floats, confidences: Floats, classes: Integers, *, iou: float, limit: int
) -> NDArray[np.int64]:
    """Return indices of the boxes float[n, 5] that Fast NMS keeps, the most confident first;
    parameters as in `nms`.

    Fast NMS drops a box also if the more confident box that it overlaps was dropped itself.
    """
    order = np.argsort(-confidences, kind="stable")
    kept: NDArray[np.int64] = np.empty(0, np.int64)
    for start in range(0, len(order), CHUNK):
        seen = order[: start + CHUNK]
        chunk = np.arange(start, len(seen))
        is_same_class = classes[seen][:, None] == classes[seen[chunk]]
        is_earlier = np.arange(len(seen))[:, None] < chunk
        earlier, later = np.nonzero(is_same_class & is_earlier)
        overlap = rotated_overlap(boxes[seen[earlier]], boxes[seen[chunk[later]]])
        keep: Bools = np.ones(len(chunk), bool)
        keep[later[overlap > iou]] = False
        kept = np.concatenate([kept, seen[chunk[keep]]])
        if len(kept) >= limit:
            break
    return kept[:limit]


def around(corners: Floats) -> Floats:
    """Return the smallest rotated boxes float[..., 5] around points [..., k, 2].

    A side of the smallest rectangle lies along a side of the points' convex hull, and so along a
    line through two of the points. All these lines are tried.
    """
    pairs = np.array(list(combinations(range(corners.shape[-2]), 2)))
    lines = corners[..., pairs[:, 1], :] - corners[..., pairs[:, 0], :]
    angles = np.arctan2(lines[..., 1], lines[..., 0])
    cosines, sines = np.cos(angles)[..., None], np.sin(angles)[..., None]
    x, y = corners[..., None, :, 0], corners[..., None, :, 1]
    turned = np.stack([x * cosines + y * sines, y * cosines - x * sines], axis=-1)
    low, high = turned.min(axis=-2), turned.max(axis=-2)
    best = np.argmin(np.prod(high - low, axis=-1), axis=-1)[..., None]
    u, v = np.moveaxis(_of_best_line((low + high) / 2, best), -1, 0)
    width, height = np.moveaxis(_of_best_line(high - low, best), -1, 0)
    cos = np.take_along_axis(cosines[..., 0], best, -1)[..., 0]
    sin = np.take_along_axis(sines[..., 0], best, -1)[..., 0]
    angle = np.take_along_axis(angles, best, -1)[..., 0]
    return np.stack([u * cos - v * sin, u * sin + v * cos, width, height, angle], axis=-1)


def _of_best_line(values: Floats, best: Integers) -> Floats:
    """Return the values [..., 2] of the best line, from values [..., lines, 2]."""
    selected: Floats = np.take_along_axis(values, best[..., None], axis=-2)[..., 0, :]
    return selected


@dataclass(frozen=True)
class Corners:
    """The ground truth of rotated boxes."""

    def truth(self, images: Sequence[LabelledImage], most: int) -> dict[str, NDArray[Any]]:
        """Return {"corners": float64[n, most, 4, 2]}, x and y in pixels of the image."""
        corners = np.zeros((len(images), most, 4, 2))
        for row, image in enumerate(images):
            if image.corners is not None:
                corners[row, : len(image.boxes)] = image.corners
        return {"corners": corners}


@dataclass(frozen=True)
class RotatedScore(DetectionScore):
    """The score of rotated boxes, which are compared in pixels of the input; fields as in
    `DetectionScore`.

    A record has one number more than that of upright boxes, the sum of all overlaps. The metric
    does not count it, but it shows changes too small for any threshold.
    """

    can_be_drawn: ClassVar[bool] = False

    def __call__(self, outputs: Any, targets: Mapping[str, Any]) -> Scores:
        classes, crowd, corners, geometry = (
            as_numpy(targets[name]) for name in ("classes", "crowd", "corners", "geometry")
        )
        found = self.detections(outputs, targets)
        boxes = around(_in_input(corners, geometry)).astype(np.float64)
        values = rotated_overlap(found.boxes[:, :, None], boxes[:, None])
        truth, overlaps = Truth(boxes, classes, crowd), Overlaps(values, crowd)
        scores = overlap_scores(found, truth, overlaps, len(self.names))
        is_pair = (found.confidences > 0)[:, :, None] & (classes >= 0)[:, None]
        overlap_sums = np.sum(values * is_pair, axis=(1, 2))[:, None]
        return np.concatenate([scores, overlap_sums], axis=1)

    def box_rows(self, scores: Scores) -> Scores:
        """Return the records without the sum of overlaps, in the form of `image_scores`."""
        return scores[:, :-1]

    @property
    def size_note(self) -> str:
        return "There is no AP by size, which COCO defines for upright boxes: these are rotated."

    def size_rows(self, scores: Scores) -> dict[str, Scores]:
        """Return no rows, because rotated boxes have no sizes."""
        return {}

    def detections(self, outputs: Any, targets: Mapping[str, Any]) -> Detections:
        """Return the detections of a batch, with boxes in pixels of the input."""
        return self.reported(outputs)

    def reported(self, outputs: Any) -> Detections:
        boxes, confidences = self.decoded(outputs)
        return detections(boxes, confidences, self.rule, suppress_rotated)

    def overlaps(self, boxes: Floats, others: Floats) -> Floats:
        return rotated_overlap(boxes[:, :, None], others[:, None])

    @property
    def metric(self) -> str:
        return "rotated mAP50-95"

    @property
    def aggregate(self) -> Aggregate:
        return Figure(self.box_rows, rotated_mean, len(self.names))

    @property
    def figures(self) -> dict[str, Aggregate]:
        mean = partial(rotated_mean, levels=1)
        return {"rotated mAP50": Figure(self.box_rows, mean, len(self.names))}

    def precision(self, scores: Scores) -> NDArray[np.float64]:
        return rotated_precision(self.box_rows(scores), len(self.names))


def rotated_mean(scores: Scores, classes: int, levels: int = len(IOUS)) -> float:
    """Return the mean of `rotated_precision` over the classes that occur, 0..1; 0.0 if none does.

    scores: rows of `image_scores`.
    classes: the number of classes.
    levels: how many of the overlap thresholds count, from the lowest one on.
    """
    precision = rotated_precision(scores, classes)[:levels]
    known = precision[:, ~np.isnan(precision[0])]
    return float(known.mean()) if known.size else 0.0


def rotated_precision(scores: Scores, classes: int) -> NDArray[np.float64]:
    """Return the average precision of each class at each overlap threshold, float64[10, classes],
    as ultralytics computes it; nan for classes without ground truth.

    It is the area under the falling hull of precision over recall, by the trapezoidal rule with 101
    points. COCO takes the mean of the points, which is half a point higher if everything is found.

    scores: rows of `image_scores`.
    classes: the number of classes.
    """
    labels, hits, counts = sorted_hits(scores, classes)
    precision = np.full((len(IOUS), classes), np.nan)
    for label in np.flatnonzero(counts):
        hits_of_class = hits[:, labels == label]
        count = float(counts[label])
        precision[:, label] = [_area(hits_at_level, count) for hits_at_level in hits_of_class]
    return precision


def _area(hits: Bools, count: float) -> float:
    """Return the area under the precision of one class at one overlap threshold.

    hits: bool[m], whether each detection is a true positive, the most confident first.
    count: ground-truth objects of the class, at least 1.
    """
    if not hits.size:
        return 0.0
    true_positives = np.cumsum(hits)
    recall = true_positives / count
    precision = true_positives / np.arange(1, len(hits) + 1)
    recalls = np.concatenate([[0.0], recall, [recall[-1], 1.0]])
    precisions = np.concatenate([[1.0], precision, [0.0, 0.0]])
    hull = np.maximum.accumulate(precisions[::-1])[::-1]
    return float(np.trapezoid(np.interp(RECALLS, recalls, hull), RECALLS))


def _in_input(corners: Floats, geometry: Geometry) -> Floats:
    """Return points [n, most, 4, 2] of the images in pixels of the input.

    geometry: [n, 6], one row for each image.
    """
    scale, border = geometry[:, None, None, 0:2], geometry[:, None, None, 2:4]
    in_input: Floats = corners / scale + border
    return in_input
