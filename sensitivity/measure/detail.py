"""The changes that a plan makes to a detector, class by class and in its worst images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from sensitivity.measure.measurer import Measurer
from sensitivity.measure.ranking import Aggregate, estimate, gain
from sensitivity.measure.study import Study
from sensitivity.records import Estimate, Plan, Scores, Variant
from sensitivity.stats.jackknife import pseudo_values
from sensitivity.tasks.detection import DetectionScore, ImageBatches, pad_truth
from sensitivity.tasks.detection_detail import (
    VARIANTS,
    DetectionDetail,
    ShownImage,
    SizeResult,
    class_results,
    shown_boxes,
)
from sensitivity.tasks.detection_images import image_size, load_rgb
from sensitivity.tasks.detection_labels import LabelledImage
from sensitivity.tasks.detection_map import mean_average_precision
from sensitivity.tasks.detection_thresholds import threshold_result

MOST_IMAGES = 5_000
"""Number of images of `holdout` that are measured, at most. Up to that number, the search for the
plan has measured them all."""

SEARCHED_IMAGES = 400
"""Number of images among which the worst ones are found, at most, because each of them is left out
once."""

SPLIT = "holdout"
WORST = 4
WIDTH = 480
"""Longer side of a picture in the report, in pixels."""


def detection_detail(study: Study, plan: Plan) -> DetectionDetail | None:
    """Return details of float, INT8 and the plan on `holdout`, which no choice used; None for a
    task that is not a detector's."""
    measurer = study.measurer
    judge = measurer.task.score
    if not isinstance(judge, DetectionScore):
        return None
    variants = (study.float_variant, study.baselines["quantized"], study.plan_variant(plan))
    scores = dict(zip(VARIANTS, _scores(measurer, variants), strict=True))
    aggregates = {measurer.task.metric: measurer.task.aggregate} | judge.figures
    loss = _losses(scores, measurer)
    worst = [int(index) for index in np.argsort(-loss, kind="stable")[:WORST] if loss[index] > 0]
    data = measurer.task.data[SPLIT]
    images = (
        tuple(_shown(measurer, variants, data, index, float(loss[index])) for index in worst)
        if isinstance(data, ImageBatches) and judge.can_be_drawn
        else ()
    )
    return DetectionDetail(
        n=len(scores["float"]),
        skip=plan.skip,
        metrics={name: _levels(scores, aggregate) for name, aggregate in aggregates.items()},
        classes=class_results(scores, judge),
        images=images,
        thresholds=threshold_result(
            {variant: judge.box_rows(rows) for variant, rows in scores.items()}, len(judge.names)
        ),
        split=SPLIT,
        changes={name: _changes(scores, aggregate) for name, aggregate in aggregates.items()},
        sizes=_size_results(scores, judge),
        size_note=judge.size_note,
    )


def _levels(scores: Mapping[str, Scores], aggregate: Aggregate) -> dict[str, Estimate]:
    """Return the metric of each variant."""
    return {variant: estimate(rows, aggregate) for variant, rows in scores.items()}


def _changes(scores: Mapping[str, Scores], aggregate: Aggregate) -> dict[str, Estimate]:
    """Return the metric of each variant but float, minus float's."""
    others = [variant for variant in scores if variant != "float"]
    return {variant: gain(scores["float"], scores[variant], aggregate) for variant in others}


def _size_results(scores: Mapping[str, Scores], judge: DetectionScore) -> tuple[SizeResult, ...]:
    """Return the results by size; none if the scores do not hold the areas of objects."""
    by_variant = {variant: judge.size_rows(rows) for variant, rows in scores.items()}
    return tuple(
        _size_result(size, {variant: rows[size] for variant, rows in by_variant.items()}, judge)
        for size in by_variant["float"]
    )


def _size_result(size: str, scores: Mapping[str, Scores], judge: DetectionScore) -> SizeResult:
    """Return the result of one size.

    scores: variant -> rows of `image_scores` that judge this size alone.
    """
    classes = len(judge.names)
    objects_by_image = scores["float"][:, -classes:].sum(axis=1)
    objects = int(objects_by_image.sum())
    if not objects:
        return SizeResult(size, 0, {}, {})
    aggregate = partial(mean_average_precision, classes=classes)
    levels, changes = _levels(scores, aggregate), _changes(scores, aggregate)
    if np.count_nonzero(objects_by_image) < 2:  # Leaving that image out leaves no AP.
        levels, changes = _without_intervals(levels), _without_intervals(changes)
    return SizeResult(size, objects, levels, changes)


def _without_intervals(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    return {name: replace(known, low=None, high=None) for name, known in estimates.items()}


def _scores(measurer: Measurer, variants: Sequence[Variant]) -> list[Scores]:
    """Return scores of the first images of `holdout`, at least one batch."""
    batches: list[list[Scores]] = []
    stream = measurer.stream(variants, SPLIT, "detail")
    while (
        sum(len(scores) for scores, *_ in batches) < MOST_IMAGES
        and (batch := next(stream, None)) is not None
    ):
        batches.append(batch)
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _losses(scores: dict[str, Scores], measurer: Measurer) -> Scores:
    """Return the part of the loss of INT8 that each of the first images causes, float64[n]; the
    parts add up to the loss on these images."""
    float_, int8 = (scores[variant][:SEARCHED_IMAGES] for variant in ("float", "int8"))
    n = len(float_)
    if n < 2:
        return np.zeros(n)
    aggregate = measurer.task.aggregate
    lost = pseudo_values(float_, aggregate, n) - pseudo_values(int8, aggregate, n)
    return np.asarray(lost / n)


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
