"""Shows what a detector's mean average precision hides: the classes and the images that lose most
in INT8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sensitivity.records import Estimate, Scores
from sensitivity.tasks.detection import OLD_SCORES, DetectionScore
from sensitivity.tasks.detection_boxes import Bools, Detections
from sensitivity.tasks.detection_labels import LabelledImage
from sensitivity.tasks.detection_map import Truth, match
from sensitivity.tasks.detection_thresholds import ThresholdResult

VARIANTS = ("float", "int8", "partial")
"""The float model, the fully quantized one, and the plan's."""

SHOWN_CONFIDENCE = 0.25
"""The lowest confidence of a box that is drawn. The metric counts the boxes below it too."""


@dataclass(frozen=True)
class ClassResult:
    """The average precision of one class.

    name: the class name.
    boxes: the number of labelled boxes of the class.
    precision: variant -> AP50-95, 0..1.
    """

    name: str
    boxes: int
    precision: dict[str, float]


@dataclass(frozen=True)
class SizeResult:
    """The average precision of the boxes of one size.

    name: "small", "medium" or "large".
    objects: the number of labelled boxes of this size. A box on the border of two sizes is of both.
    precision: variant -> AP50-95, 0..1; empty if there are no such boxes.
    change: variant -> its AP minus float's, for the variants but float; empty if there are no such
        boxes. Intervals are paired by image.
    """

    name: str
    objects: int
    precision: dict[str, Estimate]
    change: dict[str, Estimate]


@dataclass(frozen=True)
class ShownBox:
    """A detection, or a labelled box that was missed, as it is drawn.

    x, y: the left upper corner, in fractions of the image.
    width, height: in fractions of the image.
    name: the class name.
    confidence: 0..1; None for a missed box.
    outcome: "found"; "false" for a detection of nothing; or "missed" for a labelled box that no
        detection matches.
    """

    x: float
    y: float
    width: float
    height: float
    name: str
    confidence: float | None
    outcome: str


@dataclass(frozen=True)
class ShownImage:
    """An image with the boxes of each variant.

    file: the name of the image file.
    picture: the image as a data URI.
    width, height: of the picture in pixels.
    loss: the part of the metric's loss in INT8 that this image causes, in the metric's unit.
    boxes: variant -> the boxes to draw.
    """

    file: str
    picture: str
    width: int
    height: int
    loss: float
    boxes: dict[str, tuple[ShownBox, ...]]


@dataclass(frozen=True)
class DetectionDetail:
    """The content of detection.json: results of the float model, of INT8 and of the plan.

    n: the number of images; they are the first ones of `split`.
    skip: the plan's skip set.
    metrics: name of a metric -> variant -> its value.
    classes: the classes that occur, the one that loses most in INT8 first.
    images: the images that lose most.
    thresholds: the best confidence thresholds. None if no image holds a box, and in files of
        earlier versions.
    split: the split of the images; "rank" in files of earlier versions.
    changes: name of a metric -> variant -> its value minus float's, for the variants but float.
        Intervals are paired by image. Empty in files of earlier versions.
    sizes: the results by size, small first; empty if they are not known.
    size_note: a sentence on what the sizes do not judge, or why they are not known; "" if there is
        nothing to say.
    """

    n: int
    skip: tuple[str, ...]
    metrics: dict[str, dict[str, Estimate]]
    classes: tuple[ClassResult, ...]
    images: tuple[ShownImage, ...]
    thresholds: ThresholdResult | None = None
    split: str = "rank"
    changes: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    sizes: tuple[SizeResult, ...] = ()
    size_note: str = OLD_SCORES


def class_results(scores: Mapping[str, Scores], judge: DetectionScore) -> tuple[ClassResult, ...]:
    """Return the result of each class that occurs, the class that loses most in INT8 first.

    scores: variant -> the records that `judge` gave.
    """
    names = judge.names
    precision = {variant: judge.precision(rows).mean(axis=0) for variant, rows in scores.items()}
    counts = judge.box_rows(scores["float"])[:, -len(names) :].sum(axis=0)
    results = []
    for label in np.flatnonzero(counts).tolist():
        of_class = {variant: float(values[label]) for variant, values in precision.items()}
        results.append(ClassResult(names[label], int(counts[label]), of_class))
    return tuple(sorted(results, key=_gain_in_int8))


def _gain_in_int8(result: ClassResult) -> float:
    return result.precision["int8"] - result.precision["float"]


def shown_boxes(
    found: Detections, truth: Truth, image: LabelledImage, names: Sequence[str]
) -> tuple[ShownBox, ...]:
    """Return the detections of at least `SHOWN_CONFIDENCE`, and the labelled boxes that they miss.

    A detection matches a labelled box at an overlap of half or more. Boxes are in pixels of the
    image.

    found, truth: a batch of this one image.
    names: the class names.
    """
    is_confident = found.confidences[0] >= SHOWN_CONFIDENCE
    confident = Detections(
        found.boxes[:, is_confident],
        found.confidences[:, is_confident],
        found.classes[:, is_confident],
    )
    hits, ignored = (bits[0] & 1 for bits in match(confident, truth))
    width, height = image.size or (1, 1)

    def box(
        corners: NDArray[np.float64], label: int, confidence: float | None, outcome: str
    ) -> ShownBox:
        fractions = corners / np.array([width, height, width, height])
        x1, y1, x2, y2 = fractions.tolist()
        return ShownBox(x1, y1, x2 - x1, y2 - y1, names[label], confidence, outcome)

    shown = []
    for number in np.flatnonzero(ignored == 0):
        label = int(confident.classes[0, number])
        confidence = float(confident.confidences[0, number])
        outcome = "found" if hits[number] else "false"
        shown.append(box(confident.boxes[0, number], label, confidence, outcome))
    for number in np.flatnonzero(_missed(confident, truth)):
        label = int(truth.classes[0, number])
        shown.append(box(truth.boxes[0, number], label, None, "missed"))
    return tuple(shown)


def _missed(found: Detections, truth: Truth) -> Bools:
    """Return which labelled boxes no detection matches at an overlap of half, bool[most].

    Each box is matched alone, so that a box counts as found even where its detection matched
    another one.
    """
    is_labelled = (truth.classes[0] >= 0) & ~truth.crowd[0]
    missed = np.zeros(len(is_labelled), bool)
    for box in np.flatnonzero(is_labelled):
        alone = Truth(truth.boxes[:, [box]], truth.classes[:, [box]], truth.crowd[:, [box]])
        missed[box] = not (match(found, alone)[0] & 1).any()
    return missed
