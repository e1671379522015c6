"""Key points: how similar those of a detection are to those of an object, as COCO judges poses.

Source: COCO's object key-point similarity (cocodataset.org/#keypoints-eval), computed as
COCOeval.computeOks of pycocotools computes it.
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
from sensitivity.tasks.detection_labels import BODY_SHARE, LabelledImage, labelled_areas
from sensitivity.tasks.detection_map import Overlaps, Truth

COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107,
    0.087, 0.087, 0.089, 0.089,
)  # fmt: skip
"""How far annotators differ on each of COCO's 17 points of a body, as a fraction of its size."""

PER_CLASS = 20
"""The most detections of one class in an image that COCO's key-point metric counts."""

TINY = float(np.spacing(1))
"""Added to areas, as pycocotools does."""


def usual_sigmas(points: int, numbers: int) -> tuple[float, ...]:
    """Return the sigma of each key point that ultralytics validates with where the data set
    declares none: COCO's for 17 points with visibility, 1 / points for any others.

    points: key points of an object.
    numbers: numbers of a key point; 2 for x and y, 3 with visibility.
    """
    if (points, numbers) == (17, 3):
        return COCO_SIGMAS
    return (1 / points,) * points


@dataclass(frozen=True)
class KeyPoints:
    """Key points of a pose YOLO of ultralytics.

    classes: the number of classes.
    points: key points of an object.
    numbers: numbers of a key point; 2 for x and y, 3 with visibility.
    sigmas: one for each key point, as a fraction of the object's size.
    chosen: whether the model chooses its boxes itself; its output is then
        [n, most, 6 + points * numbers].
    """

    classes: int
    points: int
    numbers: int
    sigmas: tuple[float, ...]
    chosen: bool = False

    name = "key-point"

    def truth(self, images: Sequence[LabelledImage], most: int) -> dict[str, NDArray[Any]]:
        """Return {"keypoints": float64[n, most, points, 3], "areas": float64[n, most]}, in pixels
        and square pixels of the image."""
        keypoints = np.zeros((len(images), most, self.points, 3))
        true_areas = np.zeros((len(images), most))
        for row, image in enumerate(images):
            if image.keypoints is None:
                continue  # An image without labels, such as one that is used for calibration only.
            keypoints[row, : len(image.boxes)] = image.keypoints
            true_areas[row, : len(image.boxes)] = labelled_areas(image, BODY_SHARE)
        return {"keypoints": keypoints, "areas": true_areas}

    def overlaps(
        self,
        found: Detections,
        truth: Truth,
        outputs: Any,
        targets: Mapping[str, NDArray[Any]],
    ) -> Overlaps:
        """Return the similarity of the key points of each detection and each object. Objects
        without a labelled key point are ignored, as crowds are."""
        (candidates,) = self.reported(outputs)
        assert found.anchors is not None
        points = self._positions(candidates, found.anchors)
        # `to_image` takes boxes, so each point is given to it as a box of no extent.
        as_boxes = np.concatenate([points, points], axis=-1).reshape(len(points), -1, 4)
        in_image = to_image(as_boxes, targets["geometry"])[..., :2].reshape(points.shape)
        labelled = targets["keypoints"]
        images = zip(in_image, labelled, truth.boxes, targets["areas"], strict=True)
        similarities = np.stack([self._similar(*image) for image in images])
        is_empty = ~(labelled[..., 2] > 0).any(axis=-1)
        counted = np.stack([rank_in_class(classes) < PER_CLASS for classes in found.classes])
        return Overlaps(similarities, truth.crowd | is_empty, counted)

    def reported(self, outputs: Any) -> list[Floats]:
        """Return the key points of all candidates, float32[n, anchors, points * numbers], in pixels
        of the input. Raises TaskError if the model gives another number of them."""
        given = more_values(outputs, self.classes, chosen=self.chosen)
        if given.shape[2] != self.points * self.numbers:
            raise TaskError(
                f"Expected {self.points} key points of {self.numbers} numbers with each box, got "
                f"{given.shape[2]} numbers after {self.classes} classes; use the data set that "
                "the model was trained for."
            )
        return [given]

    def lost(
        self, boxes: Floats, anchors: NDArray[np.int64], own: list[Floats], other: list[Floats]
    ) -> Floats:
        """Return 1 minus the similarity of the key points of both models, float[n, k]."""
        own_points, other_points = (self._positions(model[0], anchors) for model in (own, other))
        object_areas = np.maximum(areas(boxes), 1) * BODY_SHARE
        squared_distances = ((own_points - other_points) ** 2).sum(axis=-1)
        similarities = self._point_similarity(squared_distances, object_areas[..., None])
        return 1 - np.asarray(similarities.mean(axis=-1))

    def _positions(self, candidates: Floats, anchors: NDArray[np.int64]) -> Floats:
        """Return the x and y of the key points of these candidates, [n, k, points, 2]."""
        rows = np.take_along_axis(candidates, anchors[:, :, None], axis=1)
        return rows.reshape(*anchors.shape, self.points, self.numbers)[..., :2]

    def _similar(self, points: Floats, true: Floats, boxes: Floats, size: Floats) -> Floats:
        """Return the similarity float64[limit, most] of detections and objects of one image.

        An object without a labelled key point is compared by its box: the distance of a point is
        how far it lies outside the box grown by its own size on each side.

        points: [limit, k, 2] of the detections.
        true: [most, k, 3] of the objects.
        boxes: [most, 4] of the objects.
        size: areas [most] of the objects in square pixels.
        """
        is_labelled = true[None, :, :, 2] > 0
        from_label = points[:, None] - true[None, :, :, :2]
        extent = boxes[:, 2:] - boxes[:, :2]
        low, high = boxes[:, :2] - extent, boxes[:, 2:] + extent
        from_box = np.maximum(low[:, None] - points[:, None], 0)
        from_box += np.maximum(points[:, None] - high[:, None], 0)
        has_labels = np.any(is_labelled, axis=-1, keepdims=True)
        distances = np.where(has_labels[..., None], from_label, from_box)
        squared_distances = (distances**2).sum(axis=-1)
        counted = is_labelled | ~has_labels
        similarities = self._point_similarity(squared_distances, (size + TINY)[None, :, None])
        return np.asarray((similarities * counted).sum(axis=-1) / counted.sum(axis=-1))

    def _point_similarity(self, squared_distances: Floats, size: Floats) -> Floats:
        """Return the similarity of each point, 0..1.

        squared_distances: [..., points] in square pixels.
        size: areas of the objects in square pixels, to be broadcast.
        """
        variances = (2 * np.array(self.sigmas)) ** 2
        similarities: Floats = np.exp(-squared_distances / variances / size / 2)
        return similarities
