"""What a detector's mean average precision hides: the classes that lost, and the images that lost
most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sensitivity.records import Estimate, Scores
from sensitivity.tasks.detection import DetectionScore
from sensitivity.tasks.detection_boxes import Bools, Detections
from sensitivity.tasks.detection_labels import LabelledImage
from sensitivity.tasks.detection_map import Truth, match
from sensitivity.tasks.detection_thresholds import ThresholdResult

VARIANTS = ("float", "int8", "partial")
SHOWN_CONFIDENCE = 0.25
"""Boxes below it are not drawn; they count for the metric all the same."""


@dataclass(frozen=True)
class ClassResult:
    """AP50-95 of one class, 0..1, by variant. boxes: how many there are to be found."""

    name: str
    boxes: int
    precision: dict[str, float]


@dataclass(frozen=True)
class ShownBox:
    """x, y, width, height: shares of the image. outcome: found, false (nothing is there) or missed
    (nothing found it)."""

    x: float
    y: float
    width: float
    height: float
    name: str
    confidence: float | None
    outcome: str


@dataclass(frozen=True)
class ShownImage:
    """picture: a data URI. loss: of the metric on these images that this one causes in INT8, in the
    metric's unit."""

    file: str
    picture: str
    width: int
    height: int
    loss: float
    boxes: dict[str, tuple[ShownBox, ...]]


@dataclass(frozen=True)
class DetectionDetail:
    """detection.json: of float, INT8 and the plan on the first `n` images of rank.

    metrics: name of a metric -> variant -> its value. skip: of the plan. thresholds: None in files
    of earlier versions, and where no image holds a box.
    """

    n: int
    skip: tuple[str, ...]
    metrics: dict[str, dict[str, Estimate]]
    classes: tuple[ClassResult, ...]
    images: tuple[ShownImage, ...]
    thresholds: ThresholdResult | None = None


def class_results(scores: Mapping[str, Scores], judge: DetectionScore) -> tuple[ClassResult, ...]:
    """One for each class that occurs, the most hurt by INT8 first. scores: variant -> records of
    `judge`."""
    names = judge.names
    precision = {variant: judge.precision(rows).mean(axis=0) for variant, rows in scores.items()}
    counts = judge.box_rows(scores["float"])[:, -len(names) :].sum(axis=0)
    found = [
        ClassResult(
            names[at],
            int(counts[at]),
            {variant: float(values[at]) for variant, values in precision.items()},
        )
        for at in np.flatnonzero(counts).tolist()
    ]
    return tuple(sorted(found, key=lambda one: one.precision["int8"] - one.precision["float"]))


def shown_boxes(
    found: Detections, truth: Truth, image: LabelledImage, names: Sequence[str]
) -> tuple[ShownBox, ...]:
    """Of a batch of one image: what is reported with some confidence, and the boxes that are
    missed, at an overlap of half.

    Boxes are in pixels of the image.
    """
    sure = found.confidences[0] >= SHOWN_CONFIDENCE
    some = Detections(found.boxes[:, sure], found.confidences[:, sure], found.classes[:, sure])
    hits, ignored = (bits[0] & 1 for bits in match(some, truth))
    width, height = image.size or (1, 1)

    def box(
        corners: NDArray[np.float64], label: int, confidence: float | None, outcome: str
    ) -> ShownBox:
        x1, y1, x2, y2 = (
            float(value) for value in corners / np.array([width, height, width, height])
        )
        return ShownBox(x1, y1, x2 - x1, y2 - y1, names[label], confidence, outcome)

    reported = [
        box(
            some.boxes[0, at],
            int(some.classes[0, at]),
            float(some.confidences[0, at]),
            "found" if hits[at] else "false",
        )
        for at in range(some.classes.shape[1])
        if not ignored[at]
    ]
    missed = [
        box(truth.boxes[0, at], int(truth.classes[0, at]), None, "missed")
        for at in np.flatnonzero(_missed(some, truth))
    ]
    return (*reported, *missed)


def _missed(found: Detections, truth: Truth) -> Bools:
    """bool[most]: ground truth that no detection takes at an overlap of half: adding it as a
    detection would be a hit."""
    real = (truth.classes[0] >= 0) & ~truth.crowd[0]
    missed = np.zeros(len(real), bool)
    for at in np.flatnonzero(real):
        alone = Truth(truth.boxes[:, [at]], truth.classes[:, [at]], truth.crowd[:, [at]])
        missed[at] = not (match(found, alone)[0] & 1).any()
    return missed
