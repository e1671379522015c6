"""Masks or key points that a detector reports with each box, and the metric of both.

The metric is the mean of two mAP50-95: one from the overlap of boxes, one from that of masks or key
points. Each is COCO's, from one record per image; see `detection_map`. A row holds
3 * limit + 2 * classes + 1 numbers:

    the row of the boxes               2 * limit + classes numbers
    outcomes[limit], counts[classes]   those of the masks or key points, whose confidences are those
                                       of the boxes
    overlap                            the sum over all pairs that may match; the metric does not
                                       count it, but it shows changes too small for any threshold
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sensitivity.records import Scores
from sensitivity.tasks.detection_boxes import Detections, Floats
from sensitivity.tasks.detection_labels import LabelledImage
from sensitivity.tasks.detection_map import (
    Overlaps,
    Truth,
    image_scores,
    mean_average_precision,
    overlap_scores,
)

Arrays = Mapping[str, NDArray[Any]]


class MoreTruth(Protocol):
    """Ground truth beside boxes."""

    def truth(self, images: Sequence[LabelledImage], most: int) -> dict[str, NDArray[Any]]:
        """Return the labels of these images: name -> array [n, most, ...], padded to `most`
        objects."""
        ...


class Part(MoreTruth, Protocol):
    """Masks or key points: their ground truth, and how far the reported ones overlap it.

    name: what reports call the part, such as "mask".
    """

    @property
    def name(self) -> str: ...

    def overlaps(self, found: Detections, truth: Truth, outputs: Any, targets: Arrays) -> Overlaps:
        """Return how far the masks or key points of the detections and of the objects overlap.

        found: detections with boxes in pixels of the image.
        targets: the ground truth of the part, and the "geometry" of the batch.
        """
        ...

    def reported(self, outputs: Any) -> list[Floats]:
        """Return the arrays that `lost` compares; the first axis of each is the image."""
        ...

    def lost(
        self, boxes: Floats, anchors: NDArray[np.int64], own: list[Floats], other: list[Floats]
    ) -> Floats:
        """Return 1 minus the overlap of a variant's candidates with those of the float model,
        float[n, k].

        boxes: float[n, k, 4], the float model's boxes in pixels of the input.
        anchors: int[n, k], the candidates that are compared.
        own: what `reported` gives for the float model.
        other: what `reported` gives for the variant.
        """
        ...


def both_scores(found: Detections, truth: Truth, overlaps: Overlaps, classes: int) -> Scores:
    """Return one row for each image, as described at the top of the module.

    overlaps: of the masks or key points.
    classes: the number of classes.
    """
    boxes = image_scores(found, truth, classes)
    part = overlap_scores(found, truth, overlaps, classes)
    limit = found.classes.shape[1]
    overlap_sums = overlaps.values.sum(axis=(1, 2))[:, None]
    return np.concatenate([boxes, part[:, limit:], overlap_sums], axis=1, dtype=np.float64)


def box_rows(scores: Scores, classes: int) -> Scores:
    """Return the part of rows of `both_scores` that judges boxes, as rows of `image_scores`."""
    return scores[:, : 2 * _limit(scores, classes) + classes]


def part_rows(scores: Scores, classes: int) -> Scores:
    """Return the part of rows of `both_scores` that judges masks or key points, as rows of
    `image_scores`."""
    limit = _limit(scores, classes)
    return np.concatenate([scores[:, :limit], scores[:, 2 * limit + classes : -1]], axis=1)


def mean_of_both(scores: Scores, classes: int) -> float:
    """Return the mean of the mAP50-95 of boxes and of masks or key points, 0..1."""
    of_boxes = mean_average_precision(box_rows(scores, classes), classes)
    of_parts = mean_average_precision(part_rows(scores, classes), classes)
    return (of_boxes + of_parts) / 2


def _limit(scores: Scores, classes: int) -> int:
    """Return the number of detections in each of these rows."""
    return int(scores.shape[1] - 2 * classes - 1) // 3
