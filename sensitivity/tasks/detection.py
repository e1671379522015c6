"""Object detectors judged by COCO's mAP50-95, image by image.

    labels = coco_images(Path("instances.json"), Path("images"))
    task = detection_task(model, random_splits(labels.images, seed=0), labels.names, size=640)

Per-image scores are records, not single numbers (see `detection_map`): the metric of any subset or
resample of images comes from them at once, so intervals are had by resampling images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity import optional
from sensitivity.errors import TaskError
from sensitivity.records import Scores
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import as_numpy
from sensitivity.tasks.classification import random_parts
from sensitivity.tasks.detection_boxes import (
    Detections,
    Floats,
    Suppression,
    decode_ultralytics,
    detections,
)
from sensitivity.tasks.detection_images import Geometry, letterbox, load_rgb, to_image
from sensitivity.tasks.detection_labels import LabelledImage
from sensitivity.tasks.detection_map import Truth, image_scores, mean_average_precision
from sensitivity.tasks.images import Size

Decode = Callable[[Any], tuple[Floats, Floats]]
"""Model outputs -> boxes float[n, anchors, 4] (x1 y1 x2 y2 in input pixels), confidences float[n,
classes, anchors]."""

SIZES: Mapping[str, float] = {"rank": 0.25, "confirm": 0.5, "holdout": 0.25}
"""Signals rank detectors on few images; it is the choice of a plan by mAP that takes many."""

CACHE_BYTES = 1 << 29
"""Letterboxed images kept in memory for each split; the rest is read again on each pass."""


def detection_task(
    model: Any,
    splits: Mapping[str, Sequence[LabelledImage]],
    names: Sequence[str],
    *,
    size: Size,
    batch: int = 8,
    decode: Decode = decode_ultralytics,
    rule: Suppression | None = None,
) -> Task:
    """A task whose metric is mAP50-95, 0..1.

    model: calibrated, takes float32[n, 3, height, width], RGB 0..1. splits: images for "rank",
    "confirm" and "holdout".
    names: of the classes, as many as the model has. size: side of the square input in pixels, or
    (height, width). decode: what the model's outputs mean. rule: which boxes are reported;
    ultralytics' validation settings by default.
    """
    data = {name: ImageBatches(images, size=size, batch=batch) for name, images in splits.items()}
    score = DetectionScore(tuple(names), decode, rule or Suppression())
    aggregate = partial(mean_average_precision, classes=len(names))
    return Task(model, data, score, aggregate, metric="mAP50-95")


def random_splits(
    images: Sequence[LabelledImage], *, sizes: Mapping[str, float] = SIZES, seed: int | None = None
) -> dict[str, tuple[LabelledImage, ...]]:
    """Disjoint random splits "rank", "confirm" and "holdout"; sizes and errors as in
    `random_parts`."""
    parts = random_parts(len(images), sizes, seed)
    return {name: tuple(images[at] for at in part) for name, part in parts.items()}


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Letterboxed batches of (inputs, targets), in the given order, again and again.

    inputs: float32[n, 3, height, width], RGB 0..1. targets: a dict of tensors, the image first in
    each: boxes float64[n, most, 4] in image pixels, classes int64[n, most] (-1 where there is no
    box), crowd bool[n, most], geometry float64[n, 6]; `most` is the same in all batches.
    """

    images: Sequence[LabelledImage]
    size: Size
    batch: int
    _kept: dict[int, tuple[NDArray[np.uint8], Geometry]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.images:
            raise TaskError("Expected at least one image in each split, got none.")

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch)

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        most = self.most
        for start in range(0, len(self.images), self.batch):
            numbers = range(start, min(start + self.batch, len(self.images)))
            pixels, geometry = zip(*(self._letterboxed(number) for number in numbers), strict=True)
            truth = pad_truth([self.images[number] for number in numbers], most)
            inputs = (
                optional.torch.from_numpy(np.stack(pixels))
                .permute(0, 3, 1, 2)
                .contiguous()
                .float()
                .div_(255)
            )
            targets = {"boxes": truth.boxes, "classes": truth.classes, "crowd": truth.crowd}
            targets["geometry"] = np.stack(geometry)
            yield (
                inputs,
                {name: optional.torch.from_numpy(value) for name, value in targets.items()},
            )

    @property
    def most(self) -> int:
        """The largest number of boxes in an image, at least 1."""
        return max(1, *(len(image.boxes) for image in self.images))

    def _letterboxed(self, number: int) -> tuple[NDArray[np.uint8], Geometry]:
        if number in self._kept:
            return self._kept[number]
        image = self.images[number]
        made = self._placed(load_rgb(image.file, image.size))
        if (len(self._kept) + 1) * made[0].nbytes <= CACHE_BYTES:
            self._kept[number] = made
        return made

    def _placed(self, image: Any) -> tuple[NDArray[np.uint8], Geometry]:
        return letterbox(image, self.size)


@dataclass(frozen=True)
class DetectionScore:
    """(outputs, targets) -> one record per image, float64[n, 2 * rule.limit + classes]; see
    `detection_map`.

    reading: a sentence on what the outputs were taken for, where nobody said so; told where float
    finds nothing.
    """

    names: tuple[str, ...]
    decode: Decode
    rule: Suppression
    reading: str = ""

    def __call__(self, outputs: Any, targets: Mapping[str, Any]) -> Scores:
        boxes, classes, crowd = (as_numpy(targets[name]) for name in ("boxes", "classes", "crowd"))
        return image_scores(
            self.detections(outputs, targets), Truth(boxes, classes, crowd), len(self.names)
        )

    def detections(self, outputs: Any, targets: Mapping[str, Any]) -> Detections:
        """What the model reports, in pixels of the original images."""
        boxes, confidences = self.decode(outputs)
        if confidences.shape[1] != len(self.names):
            raise TaskError(
                f"Expected the model to tell the {len(self.names)} classes that the data set "
                f"names, got outputs for {confidences.shape[1]}; use the data set that the model "
                "was trained for, or another `decode`."
            )
        if np.isnan(confidences.sum()):
            bad = int(np.argwhere(np.isnan(confidences).any(axis=(1, 2)))[0, 0])
            raise TaskError(
                f"Expected confidences that are numbers, got NaN for sample {bad}; check the model "
                "on it."
            )
        found = detections(boxes, confidences, self.rule)
        placed = to_image(found.boxes, as_numpy(targets["geometry"]))
        return Detections(placed, found.confidences, found.classes)


def pad_truth(images: Sequence[LabelledImage], most: int) -> Truth:
    """The images' boxes as arrays of `most` boxes each."""
    truth = Truth(
        np.zeros((len(images), most, 4)),
        np.full((len(images), most), -1),
        np.zeros((len(images), most), bool),
    )
    for row, image in enumerate(images):
        count = len(image.boxes)
        truth.boxes[row, :count] = image.boxes
        truth.classes[row, :count] = image.classes
        truth.crowd[row, :count] = image.crowd
    return truth
