"""Decoding and non-maximum suppression: from a detector's raw outputs to the boxes it reports, with
numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sensitivity.tasks.batches import as_numpy
from sensitivity.tasks.images import Size, sides

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]

CHUNK = 256
"""Candidates that suppression compares at a time, until enough are kept. Comparing all at once
would cost the square of their number."""

PER_CLASS = 100
"""The most detections of one class in an image that COCO's metric counts."""

FARTHEST = 1e18
"""Boxes do not reach further than this, in pixels. Twice as far, areas are still in float32."""

BEYOND = 1e30
"""Raw numbers of boxes larger than this count as this: their boxes reach beyond `FARTHEST`, and
sums of them are still in float32."""

LARGEST_LOGARITHM = 80
"""Logarithms of sizes larger than this count as this: such a box reaches beyond `FARTHEST`, and its
size is still in float32."""


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections of a batch, the most confident first in each image.

    boxes: float64[n, limit, 4], x1 y1 x2 y2; rotated boxes are [n, limit, 5], centre, size and
        angle.
    confidences: float32[n, limit], 0 where there is no detection.
    classes: int64[n, limit], class indices.
    anchors: int64[n, limit], the index of the candidate that became the detection. None if it is
        not needed.
    """

    boxes: NDArray[np.float64]
    confidences: NDArray[np.float32]
    classes: NDArray[np.int64]
    anchors: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Suppression:
    """Which candidates become detections. The defaults are those of ultralytics' validator.

    confidence: candidates must be more confident than this.
    iou: if two boxes of one class overlap more than this, the less confident one is dropped.
    limit: the most detections in an image, over all classes.
    per_class: the most detections of one class in an image.
    """

    confidence: float = 0.001
    iou: float = 0.7
    limit: int = 300
    per_class: int = PER_CLASS


class Suppress(Protocol):
    """Chooses which candidates become detections, as `nms` does, for one kind of boxes."""

    def __call__(
        self, boxes: Floats, confidences: Floats, classes: Integers, *, iou: float, limit: int
    ) -> NDArray[np.int64]: ...


# Every decoder below returns boxes float[n, anchors, 4] as x1 y1 x2 y2 in input pixels, and
# confidences float[n, classes, anchors].


def decode_ultralytics(outputs: Any, classes: int | None = None) -> tuple[Floats, Floats]:
    """Return boxes float[n, anchors, 4] as x1 y1 x2 y2 and confidences float[n, classes, anchors]
    of an ultralytics model.

    outputs: [n, 4 + classes, anchors], or a tuple that starts with it: boxes as centre and size in
        input pixels, then confidences after the sigmoid.
    classes: the number of classes, where masks or key points follow the confidences. None takes
        all that follows the box for confidences.
    """
    raw = _first(outputs)
    return _corners(raw[:, :2], raw[:, 2:4]), _confidences(raw, classes)


def decode_bins(
    outputs: Any, size: Size, strides: tuple[int, ...] = (8, 16, 32)
) -> tuple[Floats, Floats]:
    """Return boxes and confidences of an ultralytics model that was exported without its decoding.

    outputs: (bins [n, 4 * bins, anchors], class logits [n, classes, anchors]). The bins are logits
        over the distances from the cell's centre to the left, upper, right and lower side, in
        strides. A single bin is the distance itself.
    size: side of the square input in pixels, or (height, width).
    strides: input pixels per cell of each level.
    """
    given, logits = (np.asarray(as_numpy(output), np.float32) for output in outputs)
    raw = _bounded(given)
    cells, stride = _grid(size, strides)
    centres = cells + np.float32(0.5)
    bins = raw.reshape(len(raw), 4, -1, raw.shape[-1])
    if bins.shape[2] == 1:
        distances = bins[:, :, 0]
    else:
        distances = np.einsum("nsba,b->nsa", _softmax(bins), _bins(bins))
    low, high = centres - distances[:, :2], centres + distances[:, 2:]
    corners = np.concatenate([low, high], axis=1) * stride
    return np.moveaxis(corners, 1, 2), _sigmoid(logits)


def decode_corners(outputs: Any, classes: int | None = None) -> tuple[Floats, Floats]:
    """Return boxes and confidences as by `decode_ultralytics`, for boxes that the model gives as x1
    y1 x2 y2, as one-to-one heads do."""
    raw = _first(outputs)
    return np.moveaxis(raw[:, :4], 1, 2), _confidences(raw, classes)


def decode_shares(outputs: Any, size: Size, classes: int) -> tuple[Floats, Floats]:
    """Return boxes and confidences as by `decode_ultralytics`, for boxes that the model gives as
    centre and size in fractions of the input, as RT-DETR does.

    size: side of the square input in pixels, or (height, width).
    """
    raw = _first(outputs)
    return _scaled(np.moveaxis(raw[:, :4], 1, 2), size), _confidences(raw, classes)


def decode_boxes_and_classes(outputs: Any, classes: int) -> tuple[Floats, Floats]:
    """Return boxes and confidences of YOLO-NAS, PP-YOLOE and similar models, which give the two in
    outputs of their own.

    outputs: boxes [n, anchors, 4] as x1 y1 x2 y2 in input pixels, and confidences after the sigmoid
        [n, anchors, classes] or [n, classes, anchors], in any order.
    """
    arrays = [np.asarray(as_numpy(output), np.float32) for output in outputs]
    boxes = next(array for array in arrays if array.shape[2] == 4)
    confidences = next(array for array in arrays if array is not boxes)
    has_classes_last = confidences.shape[1] == boxes.shape[1]
    if has_classes_last:
        confidences = np.moveaxis(confidences, 2, 1)
    return boxes, confidences


def decode_objectness(outputs: Any) -> tuple[Floats, Floats]:
    """Return boxes and confidences of YOLOv5, v6 and v7 of their own repositories.

    outputs: [n, anchors, 5 + classes], or a tuple that starts with it: centre and size in input
        pixels, objectness, class confidences.
    """
    raw = np.moveaxis(_first(outputs), 2, 1)
    return _corners(raw[:, :2], raw[:, 2:4]), raw[:, 4:5] * raw[:, 5:]


def decode_yolox(
    outputs: Any, size: Size, strides: tuple[int, ...] = (8, 16, 32)
) -> tuple[Floats, Floats]:
    """Return boxes and confidences of a YOLOX model that was exported without its decoding.

    outputs: [n, anchors, 5 + classes]: the centre as an offset from the cell and the logarithm of
        the size, both in strides; then objectness and class confidences after the sigmoid.
    size: side of the square input in pixels, or (height, width).
    strides: input pixels per cell of each level.
    """
    raw = np.moveaxis(_first(outputs), 2, 1)
    cells, stride = _grid(size, strides)
    centre = (_bounded(raw[:, :2]) + cells) * stride
    extent = np.exp(np.minimum(raw[:, 2:4], LARGEST_LOGARITHM)) * stride
    return _corners(centre, extent), raw[:, 4:5] * raw[:, 5:]


def decode_chosen(outputs: Any, classes: int) -> tuple[Floats, Floats]:
    """Return boxes and confidences of a model that chooses its boxes itself, as one-to-one heads
    exported by ultralytics do.

    No box suppresses another: judge such a model with `Suppression(iou=1.0)`.

    outputs: [n, most, 6], or a tuple that starts with it: x1 y1 x2 y2 in input pixels, confidence,
        class.
    """
    raw = _first(outputs)
    labels = np.rint(raw[:, None, :, 5])  # A Q/DQ pair on the output moves class numbers a little.
    is_of_class = labels == np.arange(classes)[:, None]
    confidences = np.where(is_of_class, raw[:, None, :, 4], np.float32(0))
    return raw[..., :4], confidences


def decode_raw(outputs: Any, size: Size, classes: int) -> tuple[Floats, Floats]:
    """Return boxes and confidences of a YOLO of ultralytics (v8 to 26) that was exported without
    its decoding.

    outputs: one map [n, 4 * bins + classes, height, width] for each level, or (bins, logits) as in
        `decode_bins`, in any order.
    size: side of the square input in pixels, or (height, width).
    """
    arrays = [np.asarray(as_numpy(output), np.float32) for output in outputs]
    if arrays[0].ndim == 4:
        height, _ = sides(size)
        strides = tuple(height // level.shape[2] for level in arrays)
        flat = np.concatenate([level.reshape(*level.shape[:2], -1) for level in arrays], axis=2)
        return decode_bins((flat[:, :-classes], flat[:, -classes:]), size, strides)
    first_is_logits = arrays[0].shape[1] == classes and arrays[1].shape[1] != classes
    bins_and_logits = arrays[::-1] if first_is_logits else arrays
    return decode_bins(bins_and_logits, size)


def decode_queries(outputs: Any, size: Size, classes: int) -> tuple[Floats, Floats]:
    """Return boxes and confidences of RT-DETR and similar models, whose boxes are centre and size
    in fractions of the input.

    No box suppresses another: judge such a model with `Suppression(iou=1.0)`.

    outputs: one of three forms. ultralytics gives [n, queries, 4 + classes] with confidences, or
        [n, queries, 6] with a confidence and a class. transformers gives class logits
        [n, queries, classes] and boxes [n, queries, 4], which may come in any order.
    size: side of the square input in pixels, or (height, width).
    """
    given = outputs if isinstance(outputs, tuple | list) else [outputs]
    arrays = [np.asarray(as_numpy(output), np.float32) for output in given]
    if len(arrays) > 1:
        boxes = next(array for array in arrays[::-1] if array.shape[2] == 4)
        logits = next(array for array in arrays if array is not boxes)
        return _scaled(boxes, size), _sigmoid(np.moveaxis(logits, 2, 1))
    boxes, rest = arrays[0][..., :4], arrays[0][..., 4:]
    has_class = rest.shape[2] == 2 and np.array_equal(rest[..., 1], np.rint(rest[..., 1]))
    if has_class:
        _, confidences = decode_chosen(arrays[0], classes)
    else:
        confidences = np.moveaxis(rest, 2, 1)
    return _scaled(boxes, size), confidences


def _confidences(raw: Floats, classes: int | None) -> Floats:
    """Return the confidences [n, classes, anchors] that follow the box in raw outputs; None takes
    all."""
    end = None if classes is None else 4 + classes
    return raw[:, 4:end]


def _scaled(boxes: Floats, size: Size) -> Floats:
    """Return corners in input pixels of boxes [n, queries, 4], centre and size in fractions of the
    input."""
    height, width = sides(size)
    pixels = np.moveaxis(_bounded(boxes) * np.array([width, height] * 2, np.float32), 2, 1)
    return _corners(pixels[:, :2], pixels[:, 2:])


def more_values(outputs: Any, classes: int, *, chosen: bool = False) -> Floats:
    """Return the values that an ultralytics model gives for each candidate after its classes,
    float32[n, anchors, more]: mask coefficients, key points or an angle.

    chosen: whether the outputs are those that `decode_chosen` reads, rather than those of
        `decode_ultralytics` and `decode_corners`.
    """
    raw = _first(outputs)
    if chosen:
        return raw[..., 6:]
    return np.moveaxis(raw[:, 4 + classes :], 1, 2)


def detections(
    boxes: Floats, confidences: Floats, rule: Suppression, suppress: Suppress | None = None
) -> Detections:
    """Return the detections that non-maximum suppression leaves of decoded outputs, class by class.

    An anchor is reported once for each class in which its confidence exceeds the threshold. A box
    that is not finite or reaches beyond `FARTHEST` overlaps no other: it suppresses nothing, is
    reported as a box of zeros, and finds no object.

    boxes: [n, anchors, 4]; rotated boxes are [n, anchors, 5].
    confidences: [n, classes, anchors].
    rule: which candidates become detections.
    suppress: the suppression. None uses `nms`.
    """
    suppress = suppress or nms
    n, anchor_count = len(boxes), boxes.shape[1]
    anchors = np.zeros((n, rule.limit), np.int64)
    reported = Detections(
        np.zeros((n, rule.limit, boxes.shape[2])),
        np.zeros((n, rule.limit), np.float32),
        np.zeros((n, rule.limit), np.int64),
        anchors,
    )
    for image in range(n):
        flat = confidences[image].reshape(-1)
        candidates = np.flatnonzero(flat > rule.confidence)
        classes, anchor = np.divmod(candidates, anchor_count)
        candidate_boxes = boxes[image, anchor]
        is_box = (np.abs(candidate_boxes) <= FARTHEST).all(axis=1)
        candidate_boxes[~is_box] = 0
        # A candidate without a box is of a class of its own, so that it suppresses none.
        rivals = np.where(is_box, classes, -1 - candidates)
        kept = suppress(candidate_boxes, flat[candidates], rivals, iou=rule.iou, limit=rule.limit)
        kept = kept[rank_in_class(classes[kept]) < rule.per_class]
        reported.boxes[image, : len(kept)] = candidate_boxes[kept]
        reported.confidences[image, : len(kept)] = flat[candidates[kept]]
        reported.classes[image, : len(kept)] = classes[kept]
        anchors[image, : len(kept)] = anchor[kept]
    return reported


def nms(
    boxes: Floats, confidences: Floats, classes: Integers, *, iou: float, limit: int
) -> NDArray[np.int64]:
    """Return indices of the boxes that greedy suppression keeps, the most confident first.

    A box is dropped if its overlap with a kept box of the same class that is more confident exceeds
    `iou`.

    boxes: float[n, 4], x1 y1 x2 y2.
    confidences: float[n]. Of equally confident boxes the earlier one comes first.
    classes: int[n], class indices.
    limit: the most boxes that are kept.

    >>> boxes = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [40, 0, 50, 10]])
    >>> nms(boxes, np.array([0.8, 0.9, 0.1]), np.array([3, 3, 3]), iou=0.5, limit=10).tolist()
    [1, 2]
    """
    order = np.argsort(-confidences, kind="stable")
    kept: NDArray[np.int64] = np.empty(0, np.int64)
    for start in range(0, len(order), CHUNK):
        chunk = order[start : start + CHUNK]
        if len(kept):
            is_suppressed = _overlaps(boxes, classes, kept, chunk, iou).any(axis=0)
            chunk = chunk[~is_suppressed]
        suppresses = np.triu(_overlaps(boxes, classes, chunk, chunk, iou), k=1)
        kept = np.concatenate([kept, chunk[_survivors(suppresses)]])
        if len(kept) >= limit:
            break
    return kept[:limit]


def pairwise_iou(first: Floats, second: Floats) -> Floats:
    """Return the intersection over union float[..., n, m] of boxes [..., n, 4] with [..., m, 4]; 0
    for two empty boxes."""
    shared = intersections(first, second)
    union: Floats = areas(first)[..., :, None] + areas(second)[..., None, :] - shared
    ratio: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio


def intersections(first: Floats, second: Floats) -> Floats:
    """Return areas float[..., n, m] that boxes [..., n, 4] share with boxes [..., m, 4]."""
    a, b = first[..., :, None, :], second[..., None, :, :]
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    shared: Floats = np.maximum(width, 0) * np.maximum(height, 0)
    return shared


def areas(boxes: Floats) -> Floats:
    """Return areas float[...] of boxes [..., 4], x1 y1 x2 y2; negative where one pair of corners is
    in the wrong order."""
    area: Floats = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return area


def rank_in_class(classes: Integers) -> Integers:
    """Return how many earlier entries have the same class as each entry, int[n]."""
    order = np.argsort(classes, kind="stable")
    sorted_classes = classes[order]
    first_of_class = np.searchsorted(sorted_classes, sorted_classes)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order)) - first_of_class
    return rank


def _first(outputs: Any) -> Floats:
    """Return the first output, or the only one, as float32."""
    first = outputs[0] if isinstance(outputs, tuple | list) else outputs
    return np.asarray(as_numpy(first), np.float32)


def _overlaps(
    boxes: Floats, classes: Integers, rows: Integers, columns: Integers, iou: float
) -> Bools:
    """Return whether boxes are of one class and overlap more than `iou`, bool[rows, columns]."""
    is_same_class: Bools = classes[rows][:, None] == classes[columns]
    return is_same_class & (pairwise_iou(boxes[rows], boxes[columns]) > iou)


def _survivors(suppresses: Bools) -> Bools:
    """Return which boxes greedy suppression keeps, bool[n].

    The rule "a box is kept unless a kept box suppresses it" is applied until nothing changes. A box
    is settled once all boxes before it are, so this ends, and its result is that of the greedy
    algorithm (Zheng et al., Cluster-NMS, arXiv 2005.03572). It takes few rounds in practice.

    suppresses: bool[n, n]; [i, j] is whether box i would suppress box j, true only for i < j.
    """
    suppressor, suppressed = np.nonzero(suppresses)
    keep = np.ones(len(suppresses), bool)
    while True:
        next_keep = np.ones_like(keep)
        next_keep[suppressed[keep[suppressor]]] = False
        if np.array_equal(next_keep, keep):
            return keep
        keep = next_keep


def _corners(centre: Floats, extent: Floats) -> Floats:
    """Return corners [n, anchors, 4] of boxes given by centre and size, [n, 2, anchors] each."""
    middle, half = _bounded(centre), _bounded(extent) / 2
    return np.moveaxis(np.concatenate([middle - half, middle + half], axis=1), 1, 2)


def _bounded(raw: Floats) -> Floats:
    """Return raw numbers of boxes with infinite and huge ones replaced, so that arithmetic with
    them stays in float32: see `BEYOND`. NaN stays."""
    bounded: Floats = np.clip(raw, -BEYOND, BEYOND)
    return bounded


def _grid(size: Size, strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Return the cell of each anchor float32[2, anchors] (x, y), and its stride
    float32[anchors]."""
    height, width = sides(size)
    cells, cell_strides = [], []
    for stride in strides:
        rows, columns = height // stride, width // stride
        y, x = np.divmod(np.arange(rows * columns), columns)
        cells.append(np.stack([x, y]))
        cell_strides.append(np.full(rows * columns, stride))
    all_cells = np.concatenate(cells, axis=1).astype(np.float32)
    return all_cells, np.concatenate(cell_strides).astype(np.float32)


def _bins(bins: Floats) -> Floats:
    """Return the distance in strides that each bin stands for."""
    return np.arange(bins.shape[2], dtype=np.float32)


def _softmax(bins: Floats) -> Floats:
    """Return the softmax over the third axis."""
    power: Floats = np.exp(bins - bins.max(axis=2, keepdims=True))
    share: Floats = power / power.sum(axis=2, keepdims=True)
    return share


def _sigmoid(logits: Floats) -> Floats:
    share: Floats = np.float32(1) / (np.float32(1) + np.exp(-np.clip(logits, -80, 80)))
    return share
