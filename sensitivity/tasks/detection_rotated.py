"""Rotated boxes: how far two of them overlap, which stay, and mAP50-95 as ultralytics judges them.

A rotated box is x y width height angle: its centre and size in pixels and the direction of its
width in radians.

Source: the probabilistic overlap of Gaussians in place of boxes, 1 less their Hellinger distance
(arXiv 2106.06072), and Fast NMS (arXiv 1904.02689), as ultralytics uses both. Other tools measure
the overlap of the rectangles themselves; there is no common judge as COCO's is for upright ones.
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
"""Detections in an image that count, where no image shows more objects."""


def rotated_rule(images: Iterable[LabelledImage], *, suppress: bool = True) -> Suppression:
    """As ultralytics validates: those above 0.01, as many as the fullest of these images has
    objects. suppress: False for a model that chooses its boxes itself."""
    limit = max([LIMIT, *(len(image.boxes) for image in images)])
    overlap = 0.7 if suppress else 1.0
    return Suppression(confidence=0.01, iou=overlap, limit=limit, per_class=limit)


def decode_rotated(outputs: Any, classes: int, *, chosen: bool = False) -> tuple[Floats, Floats]:
    """Rotated boxes float[n, anchors, 5] and confidences float[n, classes, anchors].

    outputs: ultralytics' [n, 4 + classes + 1, anchors]: centre and size in input pixels,
    confidences, angle. chosen: the model chooses its boxes itself, [n, most, 7]: centre, size,
    confidence, class, angle. Raises TaskError where there is no angle, or more than that.
    """
    angle = more_values(outputs, classes, chosen=chosen)
    if angle.shape[2] != 1:
        raise TaskError(
            "Expected one angle with each box of a model of rotated boxes, got "
            f"{angle.shape[2]} numbers behind {classes} classes; use the data set that the model "
            "was trained for."
        )
    decode = decode_chosen if chosen else decode_ultralytics
    boxes, confidences = decode(outputs, classes)
    if not chosen:  # corners, of a box that does not stand upright
        low, high = boxes[..., :2], boxes[..., 2:]
        boxes = np.concatenate([(low + high) / 2, high - low], axis=-1)
    return np.concatenate([boxes, angle], axis=-1), confidences


def rotated_overlap(first: Floats, second: Floats) -> Floats:
    """Probabilistic overlap 0..1 of boxes [..., 5] with boxes [..., 5], broadcast together."""
    (x1, y1, *spread1), (x2, y2, *spread2) = map(_gaussian, (first, second))
    (a1, b1, c1), (a2, b2, c2) = spread1, spread2
    a, b, c = a1 + a2, b1 + b2, c1 + c2
    common = a * b - c**2
    near = (a * (y1 - y2) ** 2 + b * (x1 - x2) ** 2) / (common + TINY) / 4
    near = near + c * (x2 - x1) * (y1 - y2) / (common + TINY) / 2
    own = np.maximum(a1 * b1 - c1**2, 0) * np.maximum(a2 * b2 - c2**2, 0)
    alike = np.log(common / (4 * np.sqrt(own) + TINY) + TINY) / 2
    distance = np.clip(near + alike, TINY, 100)
    overlap: Floats = 1 - np.sqrt(1 - np.exp(-distance) + TINY)
    return overlap


def _gaussian(boxes: Floats) -> tuple[Floats, ...]:
    """x, y and the covariance (xx, yy, xy) of boxes [..., 5]."""
    x, y, width, height, angle = np.moveaxis(boxes.astype(np.float64), -1, 0)
    along, across = width**2 / 12, height**2 / 12
    cos, sin = np.cos(angle), np.sin(angle)
    xx = along * cos**2 + across * sin**2
    yy = along * sin**2 + across * cos**2
    return x, y, xx, yy, (along - across) * cos * sin


def suppress_rotated(
    boxes: Floats, confidences: Floats, classes: Integers, *, iou: float, limit: int
) -> NDArray[np.int64]:
    """As `nms`, for boxes float[n, 5], by Fast NMS: a box goes also where the more confident one
    that it overlaps has gone itself."""
    order = np.argsort(-confidences, kind="stable")
    kept: NDArray[np.int64] = np.empty(0, np.int64)
    for start in range(0, len(order), CHUNK):
        seen = order[: start + CHUNK]
        chunk = np.arange(start, len(seen))
        earlier, later = np.nonzero(
            (classes[seen][:, None] == classes[seen[chunk]])
            & (np.arange(len(seen))[:, None] < chunk)
        )
        overlap = rotated_overlap(boxes[seen[earlier]], boxes[seen[chunk[later]]])
        keep: Bools = np.ones(len(chunk), bool)
        keep[later[overlap > iou]] = False
        kept = np.concatenate([kept, seen[chunk[keep]]])
        if len(kept) >= limit:
            break
    return kept[:limit]


def around(corners: Floats) -> Floats:
    """The smallest rectangles float[..., 5] around points [..., k, 2].

    One side of it lies along a side of their hull, so along a line through two of the points.
    """
    pairs = np.array(list(combinations(range(corners.shape[-2]), 2)))
    lines = corners[..., pairs[:, 1], :] - corners[..., pairs[:, 0], :]
    angles = np.arctan2(lines[..., 1], lines[..., 0])
    cos, sin = np.cos(angles)[..., None], np.sin(angles)[..., None]
    x, y = (corners[..., None, :, at] for at in (0, 1))
    turned = np.stack([x * cos + y * sin, y * cos - x * sin], axis=-1)
    low, high = turned.min(axis=-2), turned.max(axis=-2)
    best = np.argmin(np.prod(high - low, axis=-1), axis=-1)[..., None]
    u, v = np.moveaxis(_taken((low + high) / 2, best), -1, 0)
    width, height = np.moveaxis(_taken(high - low, best), -1, 0)
    cos, sin = (np.take_along_axis(each[..., 0], best, -1)[..., 0] for each in (cos, sin))
    angle = np.take_along_axis(angles, best, -1)[..., 0]
    return np.stack([u * cos - v * sin, u * sin + v * cos, width, height, angle], axis=-1)


def _taken(values: Floats, best: Integers) -> Floats:
    """[..., 2] of values [..., pairs, 2]."""
    taken: Floats = np.take_along_axis(values, best[..., None], axis=-2)[..., 0, :]
    return taken


@dataclass(frozen=True)
class Corners:
    """The truth of rotated boxes."""

    def truth(self, images: Sequence[LabelledImage], most: int) -> dict[str, NDArray[Any]]:
        """{"corners": float64[n, most, 4, 2]}, in pixels of the image."""
        corners = np.zeros((len(images), most, 4, 2))
        for row, image in enumerate(images):
            if image.corners is not None:
                corners[row, : len(image.boxes)] = image.corners
        return {"corners": corners}


@dataclass(frozen=True)
class RotatedScore(DetectionScore):
    """As `DetectionScore`, for rotated boxes; compared in pixels of the input.

    A record has one number more, the sum of all overlaps: it counts for nothing, but changes too
    small for any threshold are seen in it.
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
        counted = (found.confidences > 0)[:, :, None] & (classes >= 0)[:, None]
        seen = np.sum(values * counted, axis=(1, 2))[:, None]
        return np.concatenate([scores, seen], axis=1)

    def box_rows(self, scores: Scores) -> Scores:
        """Of records those in the form of `image_scores`."""
        return scores[:, :-1]

    def detections(self, outputs: Any, targets: Mapping[str, Any]) -> Detections:
        """What the model reports, in pixels of the input."""
        boxes, confidences = self.decoded(outputs)
        return detections(boxes, confidences, self.rule, suppress_rotated)

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
    """The mean of `rotated_precision` over the first so many overlaps and the classes that
    occur."""
    precision = rotated_precision(scores, classes)[:levels]
    known = precision[:, ~np.isnan(precision[0])]
    return float(known.mean()) if known.size else 0.0


def rotated_precision(scores: Scores, classes: int) -> NDArray[np.float64]:
    """AP float64[10, classes] as ultralytics computes it; nan for classes without ground truth.

    The area under the falling hull of precision over recall, by 101 points between which it is
    taken for straight; COCO takes the mean of the points, half a point more where all is found.
    scores: rows of `image_scores`.
    """
    labels, hits, counts = sorted_hits(scores, classes)
    precision = np.full((len(IOUS), classes), np.nan)
    for label in np.flatnonzero(counts):
        own = hits[:, labels == label]
        precision[:, label] = [_area(each, float(counts[label])) for each in own]
    return precision


def _area(hits: Bools, count: float) -> float:
    """Of one class at one overlap. hits: bool[m], most confident first."""
    if not hits.size:
        return 0.0
    true = np.cumsum(hits)
    recall, precision = true / count, true / np.arange(1, len(hits) + 1)
    places = np.concatenate([[0.0], recall, [recall[-1], 1.0]])
    heights = np.concatenate([[1.0], precision, [0.0, 0.0]])
    hull = np.maximum.accumulate(heights[::-1])[::-1]
    return float(np.trapezoid(np.interp(RECALLS, places, hull), RECALLS))


def _in_input(corners: Floats, geometry: Geometry) -> Floats:
    """Points [n, most, 4, 2] of the images in pixels of the input. geometry: [n, 6]."""
    scale, border = (geometry[:, None, None, at : at + 2] for at in (0, 2))
    placed: Floats = corners / scale + border
    return placed
