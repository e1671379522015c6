"""Distortion of a detector's reports: its confidences, and the boxes that it is confident of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import ModelError, TaskError
from sensitivity.records import Scores
from sensitivity.signals.base import Outputs, Signal
from sensitivity.tasks.base import EvaluateTask, Task
from sensitivity.tasks.batches import as_numpy
from sensitivity.tasks.detection_boxes import areas, pairwise_iou
from sensitivity.tasks.detection_parts import Part
from sensitivity.tasks.detection_rotated import rotated_overlap

SURE = 1e-3
"""Confidences are compared between this and 1 minus this, because nothing is reported below it."""

PRECISION_LOST = 2.0
"""Precision lost per lost overlap, averaged over overlaps of 0.50 to 0.95: a tenth for each
0.05."""

SUREST = 32
"""Number of candidates whose masks or key points are compared."""

Floats = NDArray[np.float64]


def boxes_signal(task: Task | EvaluateTask) -> Signal:
    """Return the signal `boxes`, with the `decode` of this task's score. Raises TaskError if the
    score has none."""
    judge = getattr(task, "score", None)
    decode = getattr(judge, "decode", None)
    if decode is None:
        raise TaskError(
            "Expected a task of detection_task, or an ONNX detector with COCO annotations, for "
            "--signal boxes, got one whose score has no decode; use --signal sqnr."
        )

    part: Part | None = getattr(judge, "part", None)
    selects: bool = getattr(decode, "selects", False)

    def decoded(outputs: Any) -> Outputs:
        boxes = [as_numpy(array) for array in decode(outputs)]
        return boxes if part is None else boxes + part.reported(outputs)

    def lost(reference: Outputs, outputs: Outputs) -> Scores:
        if selects:
            return distortion(*matched(reference, outputs))
        own = distortion(reference[:2], outputs[:2])
        return own if part is None else own + part_distortion(part, reference, outputs)

    edition = "" if part is None else f", and {part.name}s"
    return Signal("boxes", lost, decoded, edition=f", as precision falls{edition}")


def matched(reference: Outputs, outputs: Outputs) -> tuple[Outputs, Outputs]:
    """Return boxes and confidences in which both models list what they find in the same place at
    the same index.

    This is for a model that selects its boxes, whose number and order then mean nothing. Each of
    float's boxes, the surest first, gets the variant's box of its class that overlaps it most. A
    box without a counterpart gets one in its own place, without confidence.

    reference: boxes float[n, k, 4] and confidences float[n, classes, k] of the float model.
    outputs: boxes float[n, m, 4] and confidences float[n, classes, m] of a variant.

    Both results have k + m boxes.
    """
    (boxes, confidences), (other_boxes, other) = reference, outputs
    k, m = boxes.shape[1], other_boxes.shape[1]
    both = np.concatenate([boxes, other_boxes], axis=1)
    wanted = np.pad(confidences, ((0, 0), (0, 0), (0, m)))
    moved, got = both.copy(), np.pad(other, ((0, 0), (0, 0), (k, 0)))
    for image in range(len(boxes)):
        of_class, other_class = confidences[image].argmax(0), other[image].argmax(0)
        alike = pairwise_iou(boxes[image], other_boxes[image])
        alike = alike * (of_class[:, None] == other_class)
        for place in np.argsort(-confidences[image].max(0), kind="stable"):
            if not alike[place].any():
                continue
            nearest = int(alike[place].argmax())
            moved[image, place] = other_boxes[image, nearest]
            got[image, :, place] = other[image, :, nearest]
            got[image, :, k + nearest] = 0
            alike[:, nearest] = 0
    return [both, wanted], [moved, got]


def part_distortion(part: Part, reference: Outputs, outputs: Outputs) -> Scores:
    """Return the loss in the masks or key points that the float model reports, float64[n]: 0 is no
    loss, 1 a total one.

    Only the `SUREST` candidates of which float is surest count. For each, the loss is
    PRECISION_LOST times what its overlap lacks of 1, at most 1, weighted with float's confidence.

    reference, outputs: boxes, confidences and what `part.reported` gives, of the float model and a
        variant.
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
    """Return the loss in what the float model reports, float64[n]: 0 is no loss.

    For each image this is the sum of the Kullback-Leibler divergences of all confidences (yes or
    no, from float) and of the losses of all boxes, divided by the sum of float's confidences. The
    loss of a box is PRECISION_LOST times what its overlap with float's box lacks of 1, at most 1,
    times float's confidence in it. Anchors in the background then weigh next to nothing, unlike in
    `sqnr`.

    reference, outputs: boxes float[n, anchors, 4] as corners, or 5 for rotated ones, and
        confidences float[n, classes, anchors], of the float model and of a variant.

    Raises ModelError for confidences that are not finite.
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
    """Return the divergence of the confidences, float64[n], summed over classes and anchors.

    It is 0 if both confidences are below SURE, which is true almost everywhere.
    """
    places = np.nonzero((wanted > SURE) | (got > SURE))
    p, q = (np.clip(array[places].astype(np.float64), SURE, 1 - SURE) for array in (wanted, got))
    each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    # Only rounding can make these values negative.
    return np.bincount(places[0], np.maximum(each, 0.0), len(wanted)).astype(np.float64)


def _overlap(one: Floats, other: Floats) -> Floats:
    """Return the intersection over union of boxes [n, anchors, 4], each with its counterpart; 0 for
    a box that is not finite."""
    low, high = np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])
    shared = np.prod(np.maximum(high - low, 0.0), axis=-1)
    union = areas(one) + areas(other) - shared
    ratio = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return np.asarray(np.nan_to_num(ratio, nan=0.0, posinf=0.0))
