"""Key points: how alike those of a detection and of an object are, as COCO judges poses.

Source: object key-point similarity of COCO (cocodataset.org/#keypoints-eval), computed as
COCOeval.computeOks of pycocotools does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import TaskError
from sensitivity.tasks.detection_boxes import (
    Detections,
    Floats,
    areas,
    more_values,
    rank_in_class,
)
from sensitivity.tasks.detection_images import to_image
from sensitivity.tasks.detection_labels import BODY_SHARE, LabelledImage
from sensitivity.tasks.detection_map import Overlaps, Truth

COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107,
    0.087, 0.087, 0.089, 0.089,
)  # fmt: skip
"""How far annotators differ on each of COCO's 17 points of a body, as a share of its size."""

PER_CLASS = 20
"""Detections of one class in an image that COCO's metric of key points counts."""

TINY = float(np.spacing(1))
"""Added to areas, as pycocotools does."""


def usual_sigmas(points: int, numbers: int) -> tuple[float, ...]:
    """Of 17 points with visibility those of COCO; of any others 1 / points for each, as
    ultralytics takes."""
    return COCO_SIGMAS if (points, numbers) == (17, 3) else (1 / points,) * points


@dataclass(frozen=True)
class KeyPoints:
    """Key points of a pose YOLO of ultralytics.

    classes: how many. points: of an object. numbers: 2 for x and y, 3 with visibility. sigmas: one
    for each point. chosen: the model chooses its boxes itself, [n, most, 6 + points * numbers].
    """

    classes: int
    points: int
    numbers: int
    sigmas: tuple[float, ...]
    chosen: bool = False

    name = "key-point"

    def truth(self, images: Sequence[LabelledImage], most: int) -> dict[str, NDArray[Any]]:
        """{"keypoints": float64[n, most, points, 3], "areas": float64[n, most]}."""
        keypoints = np.zeros((len(images), most, self.points, 3))
        object_areas = np.zeros((len(images), most))
        for row, image in enumerate(images):
            if image.keypoints is None or image.areas is None:
                continue  # such as an image that only calibrates
            keypoints[row, : len(image.boxes)] = image.keypoints
            object_areas[row, : len(image.boxes)] = image.areas
        return {"keypoints": keypoints, "areas": object_areas}

    def overlaps(
        self,
        found: Detections,
        truth: Truth,
        outputs: Any,
        targets: Mapping[str, NDArray[Any]],
    ) -> Overlaps:
        """Similarities of key points. Objects without a labelled point are ignored, as crowds
        are."""
        (given,) = self.reported(outputs)
        assert found.anchors is not None
        rows = np.take_along_axis(given, found.anchors[:, :, None], axis=1)
        points = rows.reshape(*rows.shape[:2], self.points, self.numbers)[..., :2]
        corners = np.concatenate([points, points], axis=-1).reshape(len(points), -1, 4)
        placed = to_image(corners, targets["geometry"])[..., :2].reshape(points.shape)
        labelled = targets["keypoints"]
        values = np.stack(
            [self._similar(*each) for each in zip(
                placed, labelled, truth.boxes, targets["areas"], strict=True
            )]
        )  # fmt: skip
        is_empty = ~(labelled[..., 2] > 0).any(axis=-1)
        counted = np.stack([rank_in_class(each) < PER_CLASS for each in found.classes])
        return Overlaps(values, truth.crowd | is_empty, counted)

    def reported(self, outputs: Any) -> list[Floats]:
        """Key points float32[n, anchors, points * numbers], in pixels of the input."""
        given = more_values(outputs, self.classes, chosen=self.chosen)
        if given.shape[2] != self.points * self.numbers:
            raise TaskError(
                f"Expected {self.points} key points of {self.numbers} numbers with each box, got "
                f"{given.shape[2]} numbers behind {self.classes} classes; use the data set that "
                "the model was trained for."
            )
        return [given]

    def lost(
        self, boxes: Floats, anchors: NDArray[np.int64], own: list[Floats], other: list[Floats]
    ) -> Floats:
        """1 less the similarity of key points, float[n, k]."""
        shape = (*anchors.shape, self.points, self.numbers)
        one, two = (
            np.take_along_axis(given[0], anchors[:, :, None], axis=1).reshape(shape)[..., :2]
            for given in (own, other)
        )
        size = np.maximum(areas(boxes), 1) * BODY_SHARE
        away = ((one - two) ** 2).sum(axis=-1)
        return 1 - np.asarray(self._alike(away, size[..., None]).mean(axis=-1))

    def _similar(self, points: Floats, true: Floats, boxes: Floats, size: Floats) -> Floats:
        """Similarity float64[limit, most] of points [limit, k, 2] and objects [most, k, 3].

        Where no point of an object is labelled, points far outside of its box are unlike it.
        """
        visible = true[None, :, :, 2] > 0
        apart = points[:, None] - true[None, :, :, :2]
        extent = boxes[:, 2:] - boxes[:, :2]
        low, high = boxes[:, :2] - extent, boxes[:, 2:] + extent
        outside = np.maximum(low[:, None] - points[:, None], 0)
        outside += np.maximum(points[:, None] - high[:, None], 0)
        has_points = np.any(visible, axis=-1, keepdims=True)
        away = (np.where(has_points[..., None], apart, outside) ** 2).sum(axis=-1)
        counted = visible | ~has_points
        alike = self._alike(away, (size + TINY)[None, :, None])
        return np.asarray((alike * counted).sum(axis=-1) / counted.sum(axis=-1))

    def _alike(self, away: Floats, size: Floats) -> Floats:
        """Of squared distances, in the areas of the objects."""
        spread = (2 * np.array(self.sigmas)) ** 2
        alike: Floats = np.exp(-away / spread / size / 2)
        return alike
