"""The changes that a plan makes to a detector, class by class and in its worst images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sensitivity.measure.measurer import Measurer
from sensitivity.measure.ranking import estimate
from sensitivity.measure.study import Study
from sensitivity.records import Plan, Scores, Variant
from sensitivity.stats.jackknife import pseudo_values
from sensitivity.tasks.detection import DetectionScore, ImageBatches, pad_truth
from sensitivity.tasks.detection_detail import (
    VARIANTS,
    DetectionDetail,
    ShownImage,
    class_results,
    shown_boxes,
)
from sensitivity.tasks.detection_images import image_size, load_rgb
from sensitivity.tasks.detection_labels import LabelledImage
from sensitivity.tasks.detection_thresholds import threshold_result

MOST_IMAGES = 400
"""Number of images of `rank` that are measured, at most: enough for each class, and few compared
with a scan."""

WORST = 4
WIDTH = 480
"""Longer side of a picture in the report, in pixels."""


def detection_detail(study: Study, plan: Plan) -> DetectionDetail | None:
    """Return details of float, INT8 and the plan on the first images of `rank`; None for a task
    that is not a detector's."""
    measurer = study.measurer
    judge = measurer.task.score
    if not isinstance(judge, DetectionScore):
        return None
    variants = (study.float_variant, study.baselines["quantized"], study.plan_variant(plan))
    scores = dict(zip(VARIANTS, _scores(measurer, variants), strict=True))
    aggregates = {measurer.task.metric: measurer.task.aggregate} | judge.figures
    metrics = {
        name: {variant: estimate(rows, aggregate) for variant, rows in scores.items()}
        for name, aggregate in aggregates.items()
    }
    loss = _losses(scores, measurer)
    worst = [int(index) for index in np.argsort(-loss, kind="stable")[:WORST] if loss[index] > 0]
    data = measurer.task.data["rank"]
    images = (
        tuple(_shown(measurer, variants, data, index, float(loss[index])) for index in worst)
        if isinstance(data, ImageBatches) and judge.can_be_drawn
        else ()
    )
    return DetectionDetail(
        len(loss),
        plan.skip,
        metrics,
        class_results(scores, judge),
        images,
        threshold_result(
            {variant: judge.box_rows(rows) for variant, rows in scores.items()}, len(judge.names)
        ),
    )


def _scores(measurer: Measurer, variants: Sequence[Variant]) -> list[Scores]:
    """Return scores of the first images of `rank`, at least one batch."""
    batches: list[list[Scores]] = []
    stream = measurer.stream(variants, "rank", "detail")
    while (
        sum(len(scores) for scores, *_ in batches) < MOST_IMAGES
        and (batch := next(stream, None)) is not None
    ):
        batches.append(batch)
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _losses(scores: dict[str, Scores], measurer: Measurer) -> Scores:
    """Return each image's part of the loss of INT8, float64[n]; the parts add up to the loss."""
    if len(scores["float"]) < 2:
        return np.zeros(len(scores["float"]))
    float_, int8 = (
        pseudo_values(scores[variant], measurer.task.aggregate) for variant in ("float", "int8")
    )
    return (float_ - int8) / len(float_)


def _shown(
    measurer: Measurer,
    variants: Sequence[Variant],
    data: ImageBatches,
    index: int,
    loss: float,
) -> ShownImage:
    """Return one image with the boxes of each variant.

    index: index of the image in `data`.
    loss: its part of the loss of INT8.
    """
    judge, image = measurer.task.score, data.images[index]
    assert isinstance(judge, DetectionScore)
    image = replace(image, size=image.size or image_size(image.file))
    inputs, targets = data.alone(image)
    truth = pad_truth([image], max(1, len(image.boxes)))
    boxes = {
        VARIANTS[number]: shown_boxes(judge.detections(outputs, targets), truth, image, judge.names)
        for number, outputs in measurer.outputs(variants, inputs)
    }
    picture, width, height = _picture(image)
    return ShownImage(
        image.file.name, picture, width, height, loss, {name: boxes[name] for name in VARIANTS}
    )


def _picture(image: LabelledImage) -> tuple[str, int, int]:
    """Return a small JPEG as a data URI, with its width and height."""
    shown: Any = load_rgb(image.file, image.size)
    ratio = WIDTH / max(shown.size)
    shown = shown.resize((max(round(shown.width * ratio), 1), max(round(shown.height * ratio), 1)))
    content = io.BytesIO()
    shown.save(content, "JPEG", quality=80)
    return (
        f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}",
        shown.width,
        shown.height,
    )
