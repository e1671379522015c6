"""From a detector's raw outputs to the boxes it reports: decoding and non-maximum suppression,
numpy only."""

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

# Suppression works through the candidates in chunks of this many, since pairs cost its square,
# until enough are kept.
CHUNK = 256

PER_CLASS = 100
"""Detections of one class in an image that COCO's metric counts, the most confident ones."""


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in a batch, most confident first in each image.

    boxes: float64[n, limit, 4], x1 y1 x2 y2; of rotated ones [n, limit, 5], centre, size and angle.
    confidences: float32[n, limit], 0 where there is no detection.
    classes: int64[n, limit]. anchors: int64[n, limit], the candidate that each one is; None where
    nobody asks.
    """

    boxes: NDArray[np.float64]
    confidences: NDArray[np.float32]
    classes: NDArray[np.int64]
    anchors: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Suppression:
    """Which candidates become detections. The defaults are those of ultralytics' validator.

    confidence: candidates must lie above it. iou: of two boxes of a class that overlap more, the
    less confident goes.
    limit: detections per image over all classes. per_class: and of one class.
    """

    confidence: float = 0.001
    iou: float = 0.7
    limit: int = 300
    per_class: int = PER_CLASS


class Suppress(Protocol):
    """As `nms`, for boxes of its kind."""

    def __call__(
        self, boxes: Floats, confidences: Floats, classes: Integers, *, iou: float, limit: int
    ) -> NDArray[np.int64]: ...


def decode_ultralytics(outputs: Any, classes: int | None = None) -> tuple[Floats, Floats]:
    """Boxes float[n, anchors, 4] as x1 y1 x2 y2 and confidences float[n, classes, anchors] of an
    ultralytics model.

    outputs: [n, 4 + classes, anchors], boxes as centre and size in input pixels, confidences after
    the sigmoid; or a
        tuple that starts with it. classes: where masks or key points follow the confidences.
    """
    raw = _first(outputs)
    return _corners(raw[:, :2], raw[:, 2:4]), raw[:, 4 : None if classes is None else 4 + classes]


def decode_bins(
    outputs: Any, size: Size, strides: tuple[int, ...] = (8, 16, 32)
) -> tuple[Floats, Floats]:
    """The same for a model of ultralytics without its decoding.

    outputs: (bins [n, 4 * bins, anchors], logits [n, classes, anchors]): logits of how far the
    left, upper, right and
        lower side are from the cell's centre, in strides; with one bin the distance itself. size:
        of the input.
    """
    raw, logits = (np.asarray(as_numpy(output), np.float32) for output in outputs)
    cells, stride = _grid(size, strides)
    bins = raw.reshape(len(raw), 4, -1, raw.shape[-1])
    reach = (
        bins[:, :, 0]
        if bins.shape[2] == 1
        else np.einsum("nsba,b->nsa", _softmax(bins), _bins(bins))
    )
    low, high = cells + np.float32(0.5) - reach[:, :2], cells + np.float32(0.5) + reach[:, 2:]
    return np.moveaxis(np.concatenate([low, high], axis=1) * stride, 1, 2), _sigmoid(logits)


def decode_corners(outputs: Any, classes: int | None = None) -> tuple[Floats, Floats]:
    """The same as `decode_ultralytics` for boxes given as x1 y1 x2 y2, as one-to-one heads do."""
    raw = _first(outputs)
    return np.moveaxis(raw[:, :4], 1, 2), raw[:, 4 : None if classes is None else 4 + classes]


def decode_shares(outputs: Any, size: Size, classes: int) -> tuple[Floats, Floats]:
    """The same as `decode_ultralytics` for centres and sizes given as parts of the input, as
    RT-DETR does. size: of the input."""
    raw = _first(outputs)
    return _scaled(np.moveaxis(raw[:, :4], 1, 2), size), raw[:, 4 : 4 + classes]


def decode_boxes_and_classes(outputs: Any, classes: int) -> tuple[Floats, Floats]:
    """The same for YOLO-NAS, PP-YOLOE and their like, which give boxes and confidences apart.

    outputs: boxes [n, anchors, 4] as x1 y1 x2 y2 in input pixels, and confidences after the sigmoid
    [n, anchors, classes] or [n, classes, anchors], in any order.
    """
    arrays = [np.asarray(as_numpy(output), np.float32) for output in outputs]
    boxes = next(each for each in arrays if each.shape[2] == 4)
    confidences = next(each for each in arrays if each is not boxes)
    has_classes_last = confidences.shape[1] == boxes.shape[1]
    return boxes, np.moveaxis(confidences, 2, 1) if has_classes_last else confidences


def decode_objectness(outputs: Any) -> tuple[Floats, Floats]:
    """The same for YOLOv5, v6 and v7 of their own repositories.

    outputs: [n, anchors, 5 + classes]: centre and size in input pixels, objectness, class
    confidences, or a tuple that
        starts with it.
    """
    raw = np.moveaxis(_first(outputs), 2, 1)
    return _corners(raw[:, :2], raw[:, 2:4]), raw[:, 4:5] * raw[:, 5:]


def decode_yolox(
    outputs: Any, size: Size, strides: tuple[int, ...] = (8, 16, 32)
) -> tuple[Floats, Floats]:
    """The same for a YOLOX model exported without its decoding.

    outputs: [n, anchors, 5 + classes]: centre as offset from the cell and log of the size, both in
    strides, then
        objectness and class confidences after the sigmoid. size: of the input.
    """
    raw = np.moveaxis(_first(outputs), 2, 1)
    cells, stride = _grid(size, strides)
    centre, extent = (raw[:, :2] + cells) * stride, np.exp(raw[:, 2:4]) * stride
    return _corners(centre, extent), raw[:, 4:5] * raw[:, 5:]


def decode_chosen(outputs: Any, classes: int) -> tuple[Floats, Floats]:
    """The same for a model that chooses its boxes itself, as one-to-one heads exported by
    ultralytics do.

    outputs: [n, most, 6]: x1 y1 x2 y2 in input pixels, confidence, class; or a tuple that starts
    with it. No box suppresses another: judge with `Suppression(iou=1.0)`.
    """
    raw = _first(outputs)
    label = np.rint(raw[:, None, :, 5])  # a Q/DQ pair on the output moves it a little
    confidences = np.where(label == np.arange(classes)[:, None], raw[:, None, :, 4], np.float32(0))
    return raw[..., :4], confidences


def decode_raw(outputs: Any, size: Size, classes: int) -> tuple[Floats, Floats]:
    """The same for a YOLO of ultralytics (v8 to 26) that was exported without its decoding.

    outputs: one map [n, 4 * bins + classes, height, width] for each level, or (bins, logits) as in
    `decode_bins`. size: of the input.
    """
    arrays = [np.asarray(as_numpy(output), np.float32) for output in outputs]
    if arrays[0].ndim == 4:
        height, _ = sides(size)
        strides = tuple(height // level.shape[2] for level in arrays)
        flat = np.concatenate([level.reshape(*level.shape[:2], -1) for level in arrays], axis=2)
        return decode_bins((flat[:, :-classes], flat[:, -classes:]), size, strides)
    first_is_logits = arrays[0].shape[1] == classes and arrays[1].shape[1] != classes
    return decode_bins(arrays[::-1] if first_is_logits else arrays, size)


def decode_queries(outputs: Any, size: Size, classes: int) -> tuple[Floats, Floats]:
    """The same for RT-DETR and its like, whose boxes are centre and size as parts of the input.

    outputs: ultralytics' [n, queries, 4 + classes] with confidences, or [n, queries, 6] with a
    confidence and a class; or class logits [n, queries, classes] and boxes [n, queries, 4] as
    transformers gives them, in any order. size: of the input. No box suppresses another: judge with
    `Suppression(iou=1.0)`.
    """
    arrays = outputs if isinstance(outputs, tuple | list) else [outputs]
    arrays = [np.asarray(as_numpy(output), np.float32) for output in arrays]
    if len(arrays) > 1:
        boxes = next(each for each in arrays[::-1] if each.shape[2] == 4)
        logits = next(each for each in arrays if each is not boxes)
        confidences = _sigmoid(np.moveaxis(logits, 2, 1))
    else:
        boxes, rest = arrays[0][..., :4], arrays[0][..., 4:]
        has_class = rest.shape[2] == 2 and np.array_equal(rest[..., 1], np.rint(rest[..., 1]))
        if has_class:
            return _scaled(boxes, size), decode_chosen(arrays[0], classes)[1]
        confidences = np.moveaxis(rest, 2, 1)
    return _scaled(boxes, size), confidences


def _scaled(boxes: Floats, size: Size) -> Floats:
    """Corners in pixels of centres and sizes [n, queries, 4] as parts of the input."""
    height, width = sides(size)
    pixels = np.moveaxis(boxes * np.array([width, height] * 2, np.float32), 2, 1)
    return _corners(pixels[:, :2], pixels[:, 2:])


def more_values(outputs: Any, classes: int, *, chosen: bool = False) -> Floats:
    """What an ultralytics model gives with each candidate behind its classes, float32[n, anchors,
    more]: coefficients of a mask, key points or an angle.

    chosen: the outputs are those of `decode_chosen`, else those of `decode_ultralytics` or
    `decode_corners`.
    """
    raw = _first(outputs)
    return raw[..., 6:] if chosen else np.moveaxis(raw[:, 4 + classes :], 1, 2)


def detections(
    boxes: Floats, confidences: Floats, rule: Suppression, suppress: Suppress | None = None
) -> Detections:
    """Non-maximum suppression per class, as decoded: an anchor may be reported once for each class
    it is above the threshold for.

    boxes: [n, anchors, 4], or 5 for rotated ones. confidences: [n, classes, anchors]. suppress:
    which of the candidates stay; `nms` for None.
    """
    suppress = suppress or nms
    n, anchors = len(boxes), boxes.shape[1]
    numbers = np.zeros((n, rule.limit), np.int64)
    found = Detections(
        np.zeros((n, rule.limit, boxes.shape[2])),
        np.zeros((n, rule.limit), np.float32),
        np.zeros((n, rule.limit), np.int64),
        numbers,
    )
    for image in range(n):
        flat = confidences[image].reshape(-1)
        candidates = np.flatnonzero(flat > rule.confidence)
        classes, anchor = np.divmod(candidates, anchors)
        kept = suppress(
            boxes[image, anchor], flat[candidates], classes, iou=rule.iou, limit=rule.limit
        )
        kept = kept[rank_in_class(classes[kept]) < rule.per_class]
        found.boxes[image, : len(kept)] = boxes[image, anchor[kept]]
        found.confidences[image, : len(kept)] = flat[candidates[kept]]
        found.classes[image, : len(kept)] = classes[kept]
        numbers[image, : len(kept)] = anchor[kept]
    return found


def nms(
    boxes: Floats, confidences: Floats, classes: Integers, *, iou: float, limit: int
) -> NDArray[np.int64]:
    """Indices of the boxes that greedy suppression keeps, most confident first, at most `limit`.

    boxes: float[n, 4]. confidences: float[n]; of equal ones the first comes first. classes: int[n];
    only boxes of the same class suppress each other. A box goes when its overlap with a kept, more
    confident one is above `iou`.

    >>> boxes = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [40, 0, 50, 10]])
    >>> nms(boxes, np.array([0.8, 0.9, 0.1]), np.array([3, 3, 3]), iou=0.5, limit=10).tolist()
    [1, 2]
    """
    order = np.argsort(-confidences, kind="stable")
    kept: NDArray[np.int64] = np.empty(0, np.int64)
    for start in range(0, len(order), CHUNK):
        chunk = order[start : start + CHUNK]
        if len(kept):
            chunk = chunk[~_overlaps(boxes, classes, kept, chunk, iou).any(axis=0)]
        kept = np.concatenate(
            [kept, chunk[_survivors(np.triu(_overlaps(boxes, classes, chunk, chunk, iou), k=1))]]
        )
        if len(kept) >= limit:
            break
    return kept[:limit]


def pairwise_iou(first: Floats, second: Floats) -> Floats:
    """Intersection over union, float[..., n, m] of boxes [..., n, 4] and [..., m, 4]; 0 for two
    empty boxes."""
    shared = intersections(first, second)
    union: Floats = areas(first)[..., :, None] + areas(second)[..., None, :] - shared
    ratio: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio


def intersections(first: Floats, second: Floats) -> Floats:
    """Areas shared by boxes [..., n, 4] and [..., m, 4], float[..., n, m]."""
    a, b = first[..., :, None, :], second[..., None, :, :]
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    shared: Floats = np.maximum(width, 0) * np.maximum(height, 0)
    return shared


def areas(boxes: Floats) -> Floats:
    """float[...] of boxes [..., 4] by their corners; below 0 for corners in the wrong order."""
    area: Floats = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return area


def rank_in_class(classes: Integers) -> Integers:
    """int[n]: how many before each one are of its class."""
    order = np.argsort(classes, kind="stable")
    together = classes[order]
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order)) - np.searchsorted(together, together)
    return rank


def _first(outputs: Any) -> Floats:
    """The first output as float32."""
    return np.asarray(
        as_numpy(outputs[0] if isinstance(outputs, tuple | list) else outputs), np.float32
    )


def _overlaps(
    boxes: Floats, classes: Integers, rows: Integers, columns: Integers, iou: float
) -> Bools:
    same: Bools = classes[rows][:, None] == classes[columns]
    return same & (pairwise_iou(boxes[rows], boxes[columns]) > iou)


def _survivors(suppresses: Bools) -> Bools:
    """bool[n]: kept by greedy suppression. suppresses: bool[n, n], [i, j] only for i before j.

    Repeats "kept unless a kept one suppresses it" until nothing changes. Box j is settled once all
    before it are, so this ends, and its end is the greedy result (Zheng et al., Cluster-NMS, arXiv
    2005.03572); few rounds in practice.
    """
    first, second = np.nonzero(suppresses)
    keep = np.ones(len(suppresses), bool)
    while True:
        after = np.ones_like(keep)
        after[second[keep[first]]] = False
        if np.array_equal(after, keep):
            return keep
        keep = after


def _corners(centre: Floats, extent: Floats) -> Floats:
    """[n, anchors, 4] corners of centres and sizes [n, 2, anchors]."""
    half = extent / 2
    return np.moveaxis(np.concatenate([centre - half, centre + half], axis=1), 1, 2)


def _grid(size: Size, strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Cell of each anchor float32[2, anchors] (x, y) and its stride float32[anchors]."""
    height, width = sides(size)
    cells, stride = [], []
    for step in strides:
        rows, columns = height // step, width // step
        y, x = np.divmod(np.arange(rows * columns), columns)
        cells.append(np.stack([x, y]))
        stride.append(np.full(rows * columns, step))
    return np.concatenate(cells, axis=1).astype(np.float32), np.concatenate(stride).astype(
        np.float32
    )


def _bins(bins: Floats) -> Floats:
    return np.arange(bins.shape[2], dtype=np.float32)


def _softmax(bins: Floats) -> Floats:
    """Over the third axis."""
    power: Floats = np.exp(bins - bins.max(axis=2, keepdims=True))
    share: Floats = power / power.sum(axis=2, keepdims=True)
    return share


def _sigmoid(logits: Floats) -> Floats:
    share: Floats = np.float32(1) / (np.float32(1) + np.exp(-np.clip(logits, -80, 80)))
    return share
