"""How far quantization moves what a detector reports: its confidences, and the boxes that it is
confident of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import ModelError, TaskError
from sensitivity.records import Scores
from sensitivity.signals.base import Outputs, Signal
from sensitivity.tasks.base import EvaluateTask, Task
from sensitivity.tasks.batches import as_numpy
from sensitivity.tasks.detection_boxes import areas
from sensitivity.tasks.detection_parts import Part
from sensitivity.tasks.detection_rotated import rotated_overlap

SURE = 1e-3
"""Confidences are compared between this and 1 minus this: below it nothing is reported."""

PRECISION_LOST = 2.0
"""How much of the precision averaged over overlaps of 0.50 to 0.95 is lost per lost overlap: a
tenth for each 0.05."""

SUREST = 32
"""Candidates whose masks or key points are compared."""

Floats = NDArray[np.float64]


def boxes_signal(task: Task | EvaluateTask) -> Signal:
    """The signal `boxes`, with the `decode` of this task's score. Raises TaskError where it has
    none."""
    judge = getattr(task, "score", None)
    decode = getattr(judge, "decode", None)
    if decode is None:
        raise TaskError(
            "Expected a task of detection_task, or an ONNX detector with COCO annotations, for "
            "--signal boxes, got one whose score has no decode; use --signal sqnr."
        )

    part: Part | None = getattr(judge, "part", None)

    def decoded(outputs: Any) -> Outputs:
        boxes = [as_numpy(array) for array in decode(outputs)]
        return boxes if part is None else boxes + part.reported(outputs)

    def lost(reference: Outputs, outputs: Outputs) -> Scores:
        own = distortion(reference[:2], outputs[:2])
        return own if part is None else own + part_distortion(part, reference, outputs)

    edition = "" if part is None else f", and {part.name}s"
    return Signal("boxes", lost, decoded, edition=f", as precision falls{edition}")


def part_distortion(part: Part, reference: Outputs, outputs: Outputs) -> Scores:
    """What is lost of the masks or key points that the float model reports, float64[n]: 0 is
    nothing, 1 all.

    reference, outputs: boxes, confidences and what `part.reported` gives, of the float model and a
    variant. Of the `SUREST` candidates that float is surest of, what each lacks of an overlap of 1,
    twice and 1 at most, weighted with float's confidence.
    """
    boxes, confidences, *own = reference
    sure = confidences.max(axis=1).astype(np.float64)
    surest = np.argsort(-sure, axis=1, kind="stable")[:, :SUREST]
    sure = np.take_along_axis(sure, surest, axis=1)
    chosen = np.take_along_axis(boxes, surest[:, :, None], axis=1)
    lacking = part.lost(chosen, surest, own, list(outputs[2:]))
    missed = (sure * np.minimum(PRECISION_LOST * lacking, 1)).sum(axis=1)
    return np.asarray(missed / np.maximum(sure.sum(axis=1), SURE), dtype=np.float64)


def distortion(reference: Outputs, outputs: Outputs) -> Scores:
    """What is lost of what the float model reports, float64[n]: 0 is nothing.

    reference, outputs: boxes float[n, anchors, 4] as corners, or 5 for rotated ones, and
    confidences float[n, classes, anchors], of the float model and of a variant. Per image the
    Kullback-Leibler divergence of every confidence (yes or no, from float), plus what each box
    lacks of an overlap of 1 with float's, twice as precision falls with it and 1 at most, times
    float's confidence in it; as part of all of float's confidence. Anchors in the background then
    weigh next to nothing, in contrast to `sqnr`. Raises ModelError for confidences that are not
    finite.
    """
    (boxes, confidences), (other_boxes, other) = reference, outputs
    if not (np.isfinite(confidences).all() and np.isfinite(other).all()):
        raise ModelError(
            "Expected finite confidences, got infinite values or NaN; use --signal metric."
        )
    sure = confidences.max(axis=1).astype(np.float64)
    overlap = rotated_overlap if boxes.shape[2] == 5 else _overlap
    lacking = 1 - overlap(boxes.astype(np.float64), other_boxes.astype(np.float64))
    missed = (sure * np.minimum(PRECISION_LOST * lacking, 1)).sum(axis=1)
    return np.asarray(
        (_divergence(confidences, other) + missed) / np.maximum(sure.sum(axis=1), SURE),
        dtype=np.float64,
    )


def _divergence(wanted: Any, got: Any) -> Floats:
    """Float64[n]: summed over classes and anchors. Where both are below SURE, as almost everywhere,
    it is 0."""
    at = np.nonzero((wanted > SURE) | (got > SURE))
    p, q = (np.clip(array[at].astype(np.float64), SURE, 1 - SURE) for array in (wanted, got))
    each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    # Never negative but for rounding.
    return np.bincount(at[0], np.maximum(each, 0.0), len(wanted)).astype(np.float64)


def _overlap(one: Floats, other: Floats) -> Floats:
    """Intersection over union of boxes [n, anchors, 4], each with its counterpart; 0 where a box is
    not finite."""
    low, high = np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])
    shared = np.prod(np.maximum(high - low, 0.0), axis=-1)
    union = areas(one) + areas(other) - shared
    ratio = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return np.asarray(np.nan_to_num(ratio, nan=0.0, posinf=0.0))
