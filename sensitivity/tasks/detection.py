"""Object detectors whose metric is COCO's mAP50-95; `detection_parts` adds masks and key points.

    labels = coco_images(Path("instances.json"), Path("images"))
    task = detection_task(model, random_splits(labels.images, seed=0), labels.names, size=640)

The score of an image is a record, not a single number; see `detection_map`. The metric of any
subset or resample of the images is computed from their records, so intervals come from a bootstrap
over images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sensitivity import optional
from sensitivity.errors import TaskError
from sensitivity.records import Scores
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import NOT_DIGESTED, as_numpy
from sensitivity.tasks.classification import random_parts
from sensitivity.tasks.detection_boxes import (
    Detections,
    Floats,
    Suppression,
    decode_ultralytics,
    detections,
    pairwise_iou,
)
from sensitivity.tasks.detection_images import (
    Geometry,
    letterbox,
    load_rgb,
    placed,
    stretch,
    to_image,
)
from sensitivity.tasks.detection_labels import LabelledImage, labelled_areas
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
from sensitivity.tasks.detection_sizes import SIZES as OBJECT_SIZES
from sensitivity.tasks.detection_sizes import rows_of_size, size_scores
from sensitivity.tasks.detection_soft import BoxesLost
from sensitivity.tasks.images import Size

OLD_SCORES = (
    "There is no AP by size: an earlier version began this run, and its scores do not hold the "
    "areas of objects. Scan into another --out for it."
)

AREAS = NOT_DIGESTED
"""The target that holds the areas of the objects."""

Decode = Callable[[Any], tuple[Floats, Floats]]
"""Model outputs -> boxes float[n, anchors, 4] (x1 y1 x2 y2 in input pixels) and confidences
float[n, classes, anchors]."""

SIZES: Mapping[str, float] = {"rank": 0.25, "confirm": 0.5, "holdout": 0.25}
"""Share of the images in each split. "confirm" is the largest: a ranking by signals needs few
images, while choosing a plan by mAP needs many."""

Aggregate = Callable[[Scores], Any]
"""Records of any number of images -> what they amount to, such as a metric."""

MEANS: Mapping[str, Callable[[Scores, int], float]] = {
    "mAP50-95": mean_average_precision,
    "mAP50": mean_average_precision_50,
}
"""Name of a metric -> (rows of `image_scores`, number of classes) -> its value."""

CACHE_BYTES = 1 << 29
"""Bytes of letterboxed images kept in memory for each split; other images are read again on each
pass."""


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
    """Return a task whose metric is mAP50-95, 0..1.

    model: the calibrated detector, which takes float32[n, 3, height, width], RGB in the range
        0 to 1.
    splits: images for "rank", "confirm" and "holdout".
    names: the class names, as many as the model has classes.
    size: side of the square input in pixels, or (height, width).
    decode: turns the model's outputs into boxes and confidences.
    rule: which candidates become detections. None uses the settings of ultralytics' validator.
    part: masks or key points that the model gives with each box. The metric is then the mean of
        the mAP50-95 of the boxes and that of the part. None judges boxes alone.
    stretched: whether images are stretched over the whole input, as RT-DETR is validated, rather
        than letterboxed.
    """
    data = {
        name: ImageBatches(images, size=size, batch=batch, part=part, stretched=stretched)
        for name, images in splits.items()
    }
    score = DetectionScore(tuple(names), decode, rule or Suppression(), part=part)
    return Task(model, data, score, score.aggregate, metric=score.metric, soft=score.soft)


def random_splits(
    images: Sequence[LabelledImage], *, sizes: Mapping[str, float] = SIZES, seed: int | None = None
) -> dict[str, tuple[LabelledImage, ...]]:
    """Draw the disjoint splits "rank", "confirm" and "holdout" at random.

    sizes, seed, errors: as in `random_parts`.
    """
    parts = random_parts(len(images), sizes, seed)
    return {name: tuple(images[number] for number in part) for name, part in parts.items()}


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Letterboxed batches of (inputs, targets) in the order of `images`. They can be iterated any
    number of times.

    The inputs of a batch are float32[n, 3, height, width], RGB in the range 0 to 1. Its targets are
    a dict of tensors whose first axis is the image: "boxes" float64[n, most, 4] in image pixels,
    "classes" int64[n, most] (-1 where there is no box), "crowd" bool[n, most], `AREAS`
    float64[n, most] in square pixels, "geometry" float64[n, 6], and those of `part`. `most` is the
    same in all batches.

    images: at least one. TaskError is raised for none.
    size: side of the square input in pixels, or (height, width).
    batch: images in a batch; the last batch may have fewer.
    part: what is judged beside boxes. None for boxes alone.
    stretched: whether images are stretched over the whole input, whatever their proportions.
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
        from_numpy = optional.torch.from_numpy
        for pixels, targets in self.arrays():
            channels_first = from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
            inputs = channels_first.float().div_(255)
            yield inputs, {name: from_numpy(value) for name, value in targets.items()}

    def arrays(self) -> Iterator[tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]]:
        """Yield the batches of (RGB images uint8[n, height, width, 3], targets) as numpy arrays."""
        for start in range(0, len(self.images), self.batch):
            numbers = range(start, min(start + self.batch, len(self.images)))
            pixels, geometry = zip(*(self._letterboxed(number) for number in numbers), strict=True)
            images = [self.images[number] for number in numbers]
            yield np.stack(pixels), self._targets(images) | {"geometry": np.stack(geometry)}

    def _targets(self, images: Sequence[LabelledImage]) -> dict[str, NDArray[Any]]:
        truth = pad_truth(images, self.most)
        targets = {"boxes": truth.boxes, "classes": truth.classes, "crowd": truth.crowd}
        targets[AREAS] = np.asarray(truth.areas)
        if self.part is None:
            return targets
        return targets | self.part.truth(images, self.most)

    def alone(self, image: LabelledImage) -> tuple[Any, dict[str, Any]]:
        """Return a batch of this one image, which need not be among `images`."""
        return next(iter(replace(self, images=[image], batch=1, _kept={})))

    @property
    def most(self) -> int:
        """The largest number of boxes in an image, at least 1."""
        return max(1, *(len(image.boxes) for image in self.images))

    def _letterboxed(self, number: int) -> tuple[NDArray[np.uint8], Geometry]:
        if number in self._kept:
            return self._kept[number]
        image = self.images[number]
        pixels, geometry = self._placed(load_rgb(image.file, image.size))
        if (len(self._kept) + 1) * pixels.nbytes <= CACHE_BYTES:
            self._kept[number] = pixels, geometry
        return pixels, geometry

    def _placed(self, image: Any) -> tuple[NDArray[np.uint8], Geometry]:
        if not self.stretched:
            return letterbox(image, self.size)
        return placed(image, self.size, stretch(image.width, image.height, self.size))


@dataclass(frozen=True)
class DetectionScore:
    """(outputs, targets) -> one record per image, float64[n, width + rule.limit + classes].

    `detection_map` describes the first 2 * rule.limit + classes numbers of a record,
    `detection_parts` the first ones of a model with masks or key points, and `detection_sizes` the
    others.

    names: the class names, in the order of the model's outputs.
    decode: turns the model's outputs into boxes and confidences.
    rule: which candidates become detections.
    reading: a sentence that says how the outputs were understood, where the user did not say so.
        It is quoted when the float model finds nothing.
    part: what is judged beside boxes. None for boxes alone.
    sized: whether records hold the sizes of objects. False continues a run whose records lack them.
    """

    names: tuple[str, ...]
    decode: Decode
    rule: Suppression
    reading: str = ""
    part: Part | None = None
    sized: bool = True

    can_be_drawn: ClassVar[bool] = True
    """Whether the report can show its boxes in images."""

    def __call__(self, outputs: Any, targets: Mapping[str, Any]) -> Scores:
        arrays = {name: as_numpy(value) for name, value in targets.items()}
        truth = Truth(arrays["boxes"], arrays["classes"], arrays["crowd"], arrays.get(AREAS))
        found = self.detections(outputs, targets)
        if self.part is None:
            scores = image_scores(found, truth, len(self.names))
        else:
            overlaps = self.part.overlaps(found, truth, outputs, arrays)
            scores = both_scores(found, truth, overlaps, len(self.names))
        if not self.sized:
            return scores
        return np.concatenate([scores, size_scores(found, truth, len(self.names))], axis=1)

    @property
    def size_note(self) -> str:
        """A sentence on what is not judged by size, or why nothing is; "" if everything is."""
        if not self.sized:
            return OLD_SCORES
        if self.part is None:
            return ""
        return f"Boxes alone are judged by size; the {self.part.name} AP is not."

    @property
    def width(self) -> int:
        """The number of numbers in a record without the sizes of objects."""
        of_boxes = 2 * self.rule.limit + len(self.names)
        if self.part is None:
            return of_boxes
        return of_boxes + self.rule.limit + len(self.names) + 1

    @property
    def metric(self) -> str:
        """The name of the metric."""
        return "mAP50-95" if self.part is None else f"box and {self.part.name} mAP50-95"

    @property
    def aggregate(self) -> Aggregate:
        """Records of images -> the metric, 0..1."""
        mean = mean_average_precision if self.part is None else mean_of_both
        return Figure(self.without_sizes, mean, len(self.names))

    @property
    def figures(self) -> dict[str, Aggregate]:
        """Further numbers from the same records, by name."""
        classes = len(self.names)
        if self.part is None:
            return {"mAP50": Figure(self.box_rows, mean_average_precision_50, classes)}
        figures: dict[str, Aggregate] = {}
        for metric, mean in MEANS.items():
            figures[f"box {metric}"] = Figure(self.box_rows, mean, classes)
            figures[f"{self.part.name} {metric}"] = Figure(self.part_rows, mean, classes)
        return figures

    def without_sizes(self, scores: Scores) -> Scores:
        """Return the records without the sizes of objects."""
        return scores[:, : self.width]

    def box_rows(self, scores: Scores) -> Scores:
        """Return the part of the records that judges boxes, as rows of `image_scores`."""
        rows = self.without_sizes(scores)
        if self.part is None:
            return rows
        return box_rows(rows, len(self.names))

    def part_rows(self, scores: Scores) -> Scores:
        """Return the part of the records that judges masks or key points, in the same form."""
        return part_rows(self.without_sizes(scores), len(self.names))

    def size_rows(self, scores: Scores) -> dict[str, Scores]:
        """Return the part of the records that judges the boxes of each size, size -> rows of
        `image_scores`; empty if the records hold no sizes."""
        sizes, classes = scores[:, self.width :], len(self.names)
        if sizes.shape[1] != self.rule.limit + classes:
            return {}
        boxes = self.box_rows(scores)
        return {size: rows_of_size(boxes, sizes, classes, size) for size in OBJECT_SIZES}

    def precision(self, scores: Scores) -> NDArray[np.float64]:
        """Return AP float64[10, classes] by the metric, at each overlap threshold; nan for a class
        that no image shows."""
        classes = len(self.names)
        of_boxes = average_precision(self.box_rows(scores), classes)
        if self.part is None:
            return of_boxes
        of_parts = average_precision(self.part_rows(scores), classes)
        # A class may have boxes alone, such as people without a labelled key point.
        known_parts = np.where(np.isnan(of_parts), of_boxes, of_parts)
        return (of_boxes + known_parts) / 2

    def detections(self, outputs: Any, targets: Mapping[str, Any]) -> Detections:
        """Return the detections of a batch, with boxes in pixels of the original images."""
        found = self.reported(outputs)
        boxes = to_image(found.boxes, as_numpy(targets["geometry"]))
        return replace(found, boxes=boxes)

    def reported(self, outputs: Any) -> Detections:
        """Return the detections of a batch, with boxes in pixels of the input."""
        return detections(*self.decoded(outputs), self.rule)

    def overlaps(self, boxes: Floats, others: Floats) -> Floats:
        """Return how far boxes [n, k, 4] overlap boxes [n, m, 4], float[n, k, m]."""
        return pairwise_iou(boxes, others)

    @property
    def soft(self) -> BoxesLost | None:
        """What the float model expects to lose; None for masks and key points, for which no such
        estimate is known."""
        return BoxesLost(self, len(self.names)) if self.part is None else None

    def decoded(self, outputs: Any) -> tuple[Floats, Floats]:
        """Return boxes and confidences as `decode` gives them.

        Raises TaskError if the number of classes is not that of `names`, or a confidence is NaN.
        """
        boxes, confidences = self.decode(outputs)
        if confidences.shape[1] != len(self.names):
            raise TaskError(
                f"Expected the model to tell the {len(self.names)} classes that the data set "
                f"names, got outputs for {confidences.shape[1]}; use the data set that the model "
                "was trained for, or another `decode`."
            )
        if np.isnan(confidences.sum()):
            has_nan = np.isnan(confidences).any(axis=(1, 2))
            sample = int(np.flatnonzero(has_nan)[0])
            raise TaskError(
                f"Expected confidences that are numbers, got NaN for sample {sample}; check the "
                "model on it."
            )
        return boxes, confidences


@dataclass(frozen=True)
class Figure:
    """A metric that is computed from a part of each record.

    taken: records -> that part of each.
    mean: (those parts, number of classes) -> the metric.
    classes: the number of classes.
    """

    taken: Aggregate
    mean: Callable[[Scores, int], float]
    classes: int

    def __call__(self, scores: Scores) -> float:
        return self.mean(self.taken(scores), self.classes)


def pad_truth(images: Sequence[LabelledImage], most: int) -> Truth:
    """Return the labelled boxes as arrays, padded to `most` boxes for each image."""
    truth = Truth(
        np.zeros((len(images), most, 4)),
        np.full((len(images), most), -1),
        np.zeros((len(images), most), bool),
        np.zeros((len(images), most)),
    )
    assert truth.areas is not None
    for row, image in enumerate(images):
        count = len(image.boxes)
        truth.boxes[row, :count] = image.boxes
        truth.classes[row, :count] = image.classes
        truth.crowd[row, :count] = image.crowd
        truth.areas[row, :count] = labelled_areas(image)
    return truth


def with_rows_of(task: Task, shape: tuple[int, ...] | None) -> Task:
    """Return the task with records as a run holds them, which lack the sizes of objects in runs of
    earlier versions.

    shape: of one record of the run; None if it holds none.
    """
    score = task.score
    if not isinstance(score, DetectionScore) or shape != (score.width,):
        return task
    return replace(task, score=replace(score, sized=False))
