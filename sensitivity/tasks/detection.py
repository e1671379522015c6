"""Object detectors judged by COCO's mAP50-95, image by image; see `detection_parts` for masks and
key points.

    labels = coco_images(Path("instances.json"), Path("images"))
    task = detection_task(model, random_splits(labels.images, seed=0), labels.names, size=640)

Per-image scores are records, not single numbers (see `detection_map`): the metric of any subset or
resample of images comes from them at once, so intervals are had by resampling images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

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
from sensitivity.tasks.detection_images import (
    Geometry,
    letterbox,
    load_rgb,
    placed,
    stretch,
    to_image,
)
from sensitivity.tasks.detection_labels import LabelledImage
from sensitivity.tasks.detection_map import (
    Truth,
    average_precision,
    image_scores,
    mean_average_precision,
    mean_average_precision_50,
)
from sensitivity.tasks.detection_parts import (
    MoreTruth,
    Part,
    both_scores,
    box_rows,
    mean_of_both,
    part_rows,
)
from sensitivity.tasks.images import Size

Decode = Callable[[Any], tuple[Floats, Floats]]
"""Model outputs -> boxes float[n, anchors, 4] (x1 y1 x2 y2 in input pixels), confidences float[n,
classes, anchors]."""

SIZES: Mapping[str, float] = {"rank": 0.25, "confirm": 0.5, "holdout": 0.25}
"""Signals rank detectors on few images; it is the choice of a plan by mAP that takes many."""

Aggregate = Callable[[Scores], Any]

MEANS: Mapping[str, Callable[[Scores, int], float]] = {
    "mAP50-95": mean_average_precision,
    "mAP50": mean_average_precision_50,
}

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
    part: Part | None = None,
    stretched: bool = False,
) -> Task:
    """A task whose metric is mAP50-95, 0..1; with `part` the mean of that of boxes and that of
    masks or key points.

    model: calibrated, takes float32[n, 3, height, width], RGB 0..1. splits: images for "rank",
    "confirm" and "holdout".
    names: of the classes, as many as the model has. size: side of the square input in pixels, or
    (height, width). decode: what the model's outputs mean. rule: which boxes are reported;
    ultralytics' validation settings by default. part: what it gives with each box, which is judged
    too. stretched: images are stretched over the input, as RT-DETR is validated.
    """
    data = {
        name: ImageBatches(images, size=size, batch=batch, part=part, stretched=stretched)
        for name, images in splits.items()
    }
    score = DetectionScore(tuple(names), decode, rule or Suppression(), part=part)
    return Task(model, data, score, score.aggregate, metric=score.metric)


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
    box), crowd bool[n, most], geometry float64[n, 6], and those of `part`; `most` is the same in
    all batches. part: what is judged beside boxes. stretched: over the input, whatever their
    proportions.
    """

    images: Sequence[LabelledImage]
    size: Size
    batch: int
    part: MoreTruth | None = None
    stretched: bool = False
    _kept: dict[int, tuple[NDArray[np.uint8], Geometry]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.images:
            raise TaskError("Expected at least one image in each split, got none.")

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch)

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        for pixels, targets in self.arrays():
            inputs = (
                optional.torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(255)
            )
            yield (
                inputs,
                {name: optional.torch.from_numpy(value) for name, value in targets.items()},
            )

    def arrays(self) -> Iterator[tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]]:
        """Batches of images uint8[n, height, width, 3] in RGB, and targets, as numpy arrays."""
        for start in range(0, len(self.images), self.batch):
            numbers = range(start, min(start + self.batch, len(self.images)))
            pixels, geometry = zip(*(self._letterboxed(number) for number in numbers), strict=True)
            images = [self.images[number] for number in numbers]
            yield np.stack(pixels), self._targets(images) | {"geometry": np.stack(geometry)}

    def _targets(self, images: Sequence[LabelledImage]) -> dict[str, NDArray[Any]]:
        truth = pad_truth(images, self.most)
        targets = {"boxes": truth.boxes, "classes": truth.classes, "crowd": truth.crowd}
        more = {} if self.part is None else self.part.truth(images, self.most)
        return targets | more

    def alone(self, image: LabelledImage) -> tuple[Any, dict[str, Any]]:
        """The batch of one image that need not be among these."""
        return next(iter(replace(self, images=[image], batch=1, _kept={})))

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
        if not self.stretched:
            return letterbox(image, self.size)
        return placed(image, self.size, stretch(image.width, image.height, self.size))


@dataclass(frozen=True)
class DetectionScore:
    """(outputs, targets) -> one record per image, float64[n, 2 * rule.limit + classes]; see
    `detection_map`, and `detection_parts` for those with a part.

    reading: a sentence on what the outputs were taken for, where nobody said so; told where float
    finds nothing. part: what is judged beside boxes, None for boxes alone.
    """

    names: tuple[str, ...]
    decode: Decode
    rule: Suppression
    reading: str = ""
    part: Part | None = None

    can_be_drawn: ClassVar[bool] = True
    """Whether the report can show its boxes in images."""

    def __call__(self, outputs: Any, targets: Mapping[str, Any]) -> Scores:
        arrays = {name: as_numpy(value) for name, value in targets.items()}
        truth = Truth(arrays["boxes"], arrays["classes"], arrays["crowd"])
        found = self.detections(outputs, targets)
        if self.part is None:
            return image_scores(found, truth, len(self.names))
        overlaps = self.part.overlaps(found, truth, outputs, arrays)
        return both_scores(found, truth, overlaps, len(self.names))

    @property
    def metric(self) -> str:
        """The name of the metric."""
        return "mAP50-95" if self.part is None else f"box and {self.part.name} mAP50-95"

    @property
    def aggregate(self) -> Aggregate:
        """Records of images -> the metric, 0..1."""
        classes = len(self.names)
        if self.part is None:
            return partial(mean_average_precision, classes=classes)
        return partial(mean_of_both, classes=classes)

    @property
    def figures(self) -> dict[str, Aggregate]:
        """Further numbers from the same records, by name."""
        classes = len(self.names)
        if self.part is None:
            return {"mAP50": partial(mean_average_precision_50, classes=classes)}
        rows: dict[str, Aggregate] = {"box": self.box_rows, self.part.name: self.part_rows}
        return {
            f"{of} {name}": Figure(taken, mean, classes)
            for name, mean in MEANS.items()
            for of, taken in rows.items()
        }

    def box_rows(self, scores: Scores) -> Scores:
        """Of records those of the boxes."""
        return scores if self.part is None else box_rows(scores, len(self.names))

    def part_rows(self, scores: Scores) -> Scores:
        """Of records those of the masks or key points, in the same form."""
        return part_rows(scores, len(self.names))

    def precision(self, scores: Scores) -> NDArray[np.float64]:
        """AP float64[10, classes] of each class by the metric; nan for a class that is not
        shown."""
        classes = len(self.names)
        of_boxes = average_precision(self.box_rows(scores), classes)
        if self.part is None:
            return of_boxes
        of_parts = average_precision(self.part_rows(scores), classes)
        # a class may have boxes alone, such as people without a labelled key point
        return (of_boxes + np.where(np.isnan(of_parts), of_boxes, of_parts)) / 2

    def detections(self, outputs: Any, targets: Mapping[str, Any]) -> Detections:
        """What the model reports, in pixels of the original images."""
        found = detections(*self.decoded(outputs), self.rule)
        boxes = to_image(found.boxes, as_numpy(targets["geometry"]))
        return replace(found, boxes=boxes)

    def decoded(self, outputs: Any) -> tuple[Floats, Floats]:
        """Boxes and confidences. Raises TaskError where they are those of other classes, or no
        numbers."""
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
        return boxes, confidences


@dataclass(frozen=True)
class Figure:
    """A number of a part of the records. taken: records -> that part. mean: the number of its
    rows."""

    taken: Aggregate
    mean: Callable[[Scores, int], float]
    classes: int

    def __call__(self, scores: Scores) -> float:
        return self.mean(self.taken(scores), self.classes)


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
