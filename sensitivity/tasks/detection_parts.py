"""What a detector reports with each box, a mask or key points, and the metric of both.

The metric is the mean of two mAP50-95: one where boxes must overlap, one where masks or key points
must. Each is COCO's, from one record per image; see `detection_map`. A row holds
3 * limit + 2 * classes + 1 numbers:

    the row of the boxes          2 * limit + classes numbers
    outcomes[limit], counts[classes]   the same of the masks or key points; confidences are shared
    overlap                       of all pairs that may match, summed up: it counts for nothing, but
                                  changes too small for any threshold are seen in it
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
    """What is to be found beside boxes."""

    def truth(self, images: Sequence[LabelledImage], most: int) -> dict[str, NDArray[Any]]:
        """Arrays by name, [n, most, ...]."""
        ...


class Part(MoreTruth, Protocol):
    """Masks or key points: their truth, and how far those that are reported meet it.

    name: as in "mask".
    """

    @property
    def name(self) -> str: ...

    def overlaps(self, found: Detections, truth: Truth, outputs: Any, targets: Arrays) -> Overlaps:
        """Of detections in pixels of the image. targets: truth and geometry of the batch."""
        ...

    def reported(self, outputs: Any) -> list[Floats]:
        """The outputs that `lost` compares, the image first in each."""
        ...

    def lost(
        self, boxes: Floats, anchors: NDArray[np.int64], own: list[Floats], other: list[Floats]
    ) -> Floats:
        """What candidates lack of an overlap of 1 with those of the float model, float[n, k].

        boxes: float[n, k, 4], the float model's, in pixels of the input. anchors: int[n, k]. own,
        other: of the float model and a variant.
        """
        ...


def both_scores(found: Detections, truth: Truth, overlaps: Overlaps, classes: int) -> Scores:
    """One row per image. overlaps: of masks or key points."""
    boxes = image_scores(found, truth, classes)
    part = overlap_scores(found, truth, overlaps, classes)
    limit = found.classes.shape[1]
    seen = overlaps.values.sum(axis=(1, 2))[:, None]
    return np.concatenate([boxes, part[:, limit:], seen], axis=1, dtype=np.float64)


def box_rows(scores: Scores, classes: int) -> Scores:
    """Of rows of both those of the boxes, as `image_scores` gives them."""
    return scores[:, : 2 * _limit(scores, classes) + classes]


def part_rows(scores: Scores, classes: int) -> Scores:
    """Of rows of both those of the part, in the same form."""
    limit = _limit(scores, classes)
    return np.concatenate([scores[:, :limit], scores[:, 2 * limit + classes : -1]], axis=1)


def mean_of_both(scores: Scores, classes: int) -> float:
    """The mean of the mAP50-95 of boxes and of masks or key points, 0..1."""
    of_boxes = mean_average_precision(box_rows(scores, classes), classes)
    of_parts = mean_average_precision(part_rows(scores, classes), classes)
    return (of_boxes + of_parts) / 2


def _limit(scores: Scores, classes: int) -> int:
    return int(scores.shape[1] - 2 * classes - 1) // 3
