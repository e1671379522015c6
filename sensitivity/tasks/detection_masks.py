"""Instance masks: those of a model from prototypes and coefficients, the true ones from outlines,
and how far they overlap.

Masks are compared in pixels of the image, as COCO does. pycocotools draws the outlines and counts
the pixels. A batch holds the true masks as COCO's compressed run lengths, a few hundred bytes each.

Source: YOLACT (arXiv 1904.02689) in the form that ultralytics uses. The mask of a detection is
where the sum of the prototypes, weighted by its coefficients, is above 0 inside its box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity import optional
from sensitivity.errors import MissingPackage, TaskError
from sensitivity.tasks.batches import as_numpy
from sensitivity.tasks.detection_boxes import (
    Detections,
    Floats,
    intersections,
    more_values,
)
from sensitivity.tasks.detection_images import image_size
from sensitivity.tasks.detection_labels import LabelledImage
from sensitivity.tasks.detection_map import IOUS, Overlaps, Truth
from sensitivity.tasks.images import Size, sides

Runs = dict[str, Any]
"""COCO's compressed run lengths of a mask: "size" is [height, width], "counts" the bytes."""


@dataclass(frozen=True)
class Masks:
    """Masks of a segmentation YOLO of ultralytics.

    classes: the number of classes.
    size: side of the square input in pixels, or (height, width).
    chosen: whether the model chooses its boxes itself; its first output is then
        [n, most, 6 + coefficients].
    """

    classes: int
    size: Size
    chosen: bool = False

    name = "mask"

    def truth(self, images: Sequence[LabelledImage], most: int) -> dict[str, NDArray[Any]]:
        """Return {"masks": uint8[n, most, bytes]}, run lengths padded with zeros."""
        masks_of_images = [true_masks(image) for image in images]
        lengths = [len(mask["counts"]) for masks in masks_of_images for mask in masks]
        padded = np.zeros((len(images), most, max([1, *lengths])), np.uint8)
        for row, masks in enumerate(masks_of_images):
            for number, mask in enumerate(masks):
                counts = np.frombuffer(mask["counts"], np.uint8)
                padded[row, number, : len(counts)] = counts
        return {"masks": padded}

    def overlaps(
        self,
        found: Detections,
        truth: Truth,
        outputs: Any,
        targets: Mapping[str, NDArray[Any]],
    ) -> Overlaps:
        """Return the intersection over union of the masks; for a crowd, the intersection over the
        area of the detection. Pairs that cannot reach an overlap of half are given 0."""
        coefficients, protos = self.reported(outputs)
        values = np.zeros((*found.classes.shape, truth.classes.shape[1]))
        assert found.anchors is not None
        for image, geometry in enumerate(targets["geometry"]):
            width, height = int(geometry[4]), int(geometry[5])
            true = [_runs(row, width, height) for row in targets["masks"][image]]
            may_match = _may_match(found, truth, true, image)
            reported = np.flatnonzero(may_match.any(axis=1))
            objects = np.flatnonzero(may_match.any(axis=0))
            if not reported.size:
                continue
            weights = coefficients[image, found.anchors[image, reported]]
            drawing = Drawing(protos[image], geometry, self.size)
            masks = drawing.masks(weights, found.boxes[image, reported])
            crowd = truth.crowd[image, objects].tolist()
            true_of_objects = [true[number] for number in objects]
            overlaps = optional.mask_tools.iou(masks, true_of_objects, crowd)
            values[image, reported[:, None], objects] = overlaps
            values[image] *= may_match
        return Overlaps(values, truth.crowd)

    def reported(self, outputs: Any) -> list[Floats]:
        """Return coefficients float32[n, anchors, k] and prototypes float32[n, k, rows, columns].

        Raises TaskError if there are no prototypes, or another number of them than of coefficients.
        """
        if not isinstance(outputs, tuple | list) or len(outputs) < 2:
            raise TaskError(
                "Expected a segmentation model to give detections and the prototypes of its masks, "
                "got one output; export it with both, or write a task file with a `score` of your "
                "own."
            )
        coefficients = more_values(outputs, self.classes, chosen=self.chosen)
        protos = np.asarray(as_numpy(outputs[1]), np.float32)
        if protos.ndim != 4 or protos.shape[1] != coefficients.shape[2]:
            raise TaskError(
                "Expected as many prototypes of masks [n, k, rows, columns] as a detection has "
                f"coefficients, got {coefficients.shape[2]} coefficients and an output "
                f"{list(protos.shape)}; the class names are probably not those of the model."
            )
        return [coefficients, protos]

    def lost(
        self, boxes: Floats, anchors: NDArray[np.int64], own: list[Floats], other: list[Floats]
    ) -> Floats:
        """Return 1 minus the overlap of the masks of both models at the resolution of the
        prototypes, float[n, k]."""
        lost = np.zeros(anchors.shape)
        for image in range(len(anchors)):
            inside = _cells_inside(boxes[image], own[1][image], self.size)
            own_masks, other_masks = (
                inside & (_logits(weights[image, anchors[image]], protos[image]) > 0)
                for weights, protos in (own, other)
            )
            union = (own_masks | other_masks).sum(axis=(1, 2))
            shared = (own_masks & other_masks).sum(axis=(1, 2))
            overlap = np.where(union > 0, shared / np.maximum(union, 1), 1)
            lost[image] = 1 - overlap
        return lost


@dataclass(frozen=True, eq=False)
class Drawing:
    """Draws the masks of an image from its prototypes.

    protos: float32[k, rows, columns], which cover the whole input.
    geometry: float64[6], where the image lies in the input; see `detection_images`.
    size: side of the square input in pixels, or (height, width).
    """

    protos: Floats
    geometry: NDArray[np.float64]
    size: Size

    def masks(self, weights: Floats, boxes: Floats) -> list[Runs]:
        """Return the mask of each detection in pixels of the image, clipped to its box.

        weights: float[m, k], the coefficients of the detections.
        boxes: float[m, 4], x1 y1 x2 y2 in pixels of the image.
        """
        logits = _logits(weights, self.protos)
        width, height = self.geometry[4:].astype(int).tolist()
        mask = np.zeros((height, width), np.uint8, order="F")
        masks = []
        for values, (left, top, right, bottom) in zip(logits, np.ceil(boxes), strict=True):
            box = np.s_[int(top) : int(bottom), int(left) : int(right)]
            rows, columns = np.arange(height)[box[0]], np.arange(width)[box[1]]
            mask[:] = 0
            mask[box] = self._sampled(values, rows, columns) > 0
            masks.append(optional.mask_tools.encode(mask))
        return masks

    def _sampled(self, values: Floats, rows: NDArray[Any], columns: NDArray[Any]) -> Floats:
        """Return the values at the centres of these pixels of the image, interpolated bilinearly:
        float32[rows, columns]."""
        height, width = sides(self.size)
        scale_x, scale_y, left, top = self.geometry[:4]
        inner_x, inner_y = np.rint(self.geometry[4:] / self.geometry[:2])
        across = _Between(columns, scale_x, left, inner_x, values.shape[1] / width)
        down = _Between(rows, scale_y, top, inner_y, values.shape[0] / height)
        lines = down.mixed(values)
        return across.mixed(lines.T).T


class _Between:
    """Interpolates between the cells of a prototype along one axis.

    pixels: int[m], the pixels of the image whose values are wanted.
    scale: image pixels per input pixel.
    border: where the image begins in the input, in input pixels.
    inner: the length of the image in the input, in input pixels.
    ratio: cells per input pixel.
    """

    def __init__(
        self, pixels: NDArray[Any], scale: float, border: float, inner: float, ratio: float
    ) -> None:
        positions = ((pixels + 0.5) / scale + border) * ratio - 0.5
        # The cells of the border around the image say nothing about the image.
        first, last = np.floor(border * ratio), np.ceil((border + inner) * ratio) - 1
        positions = np.clip(positions, first, last)
        self._low = np.floor(positions).astype(np.int64)
        self._high = np.minimum(self._low + 1, int(last))
        self._high_weight = (positions - self._low).astype(np.float32)[:, None]

    def mixed(self, values: Floats) -> Floats:
        """Return the interpolated values float32[m, ...] of values [cells, ...]."""
        low, high = values[self._low], values[self._high]
        mixed: Floats = low * (1 - self._high_weight) + high * self._high_weight
        return mixed


def true_masks(image: LabelledImage) -> list[Runs]:
    """Return the masks of an image's objects in pixels of the image.

    Raises MissingPackage without pycocotools, and TaskError for objects without an outline.
    """
    tools = _tools()
    if image.outlines is None and len(image.boxes):
        raise TaskError(
            f"Expected outlines of the objects in {image.file.name} for a segmentation model, got "
            "boxes alone; give COCO annotations with `segmentation`, or YOLO label files with the "
            "points of each outline."
        )
    width, height = image.size or image_size(image.file)
    masks = []
    for outline in image.outlines or ():
        runs = outline
        if isinstance(outline, list) or isinstance(outline["counts"], list):
            runs = tools.frPyObjects(outline, height, width)
        masks.append(tools.merge(runs) if isinstance(runs, list) else _in_bytes(runs))
    return masks


def _in_bytes(runs: Runs) -> Runs:
    """Return the same run lengths with counts in bytes, which a JSON file holds as text."""
    counts = runs["counts"]
    if isinstance(counts, str):
        counts = counts.encode()
    return {"size": runs["size"], "counts": counts}


def _tools() -> Any:
    try:
        return optional.mask_tools
    except ImportError:
        raise MissingPackage("pycocotools", "judging masks", "masks") from None


def _runs(row: NDArray[np.uint8], width: int, height: int) -> Runs:
    """Return the run lengths of a mask of `Masks.truth`, without its padding."""
    return {"size": [height, width], "counts": row.tobytes().rstrip(b"\0")}


def _may_match(found: Detections, truth: Truth, true: list[Runs], image: int) -> NDArray[np.bool_]:
    """Return whether a detection and an object of an image can overlap by half, bool[limit, most].

    They must be of one class, and the box of the detection must cover enough of the object's mask.
    """
    is_candidate = found.classes[image][:, None] == truth.classes[image]
    is_candidate &= (found.confidences[image] > 0)[:, None]
    true_boxes = optional.mask_tools.toBbox(true)
    true_boxes[:, 2:] += true_boxes[:, :2]
    shared = intersections(_whole_pixels(found.boxes[image]), true_boxes)
    true_areas = optional.mask_tools.area(true).astype(np.float64)
    # A crowd need not be covered, since every detection inside it is ignored.
    least = np.where(truth.crowd[image], 0, IOUS[0] * true_areas)
    may_match: NDArray[np.bool_] = is_candidate & (shared > 0) & (shared >= least)
    return may_match


def _whole_pixels(boxes: Floats) -> Floats:
    """Return boxes [..., 4] that cover every pixel that the given boxes touch."""
    return np.concatenate([np.floor(boxes[..., :2]), np.ceil(boxes[..., 2:])], axis=-1)


def _logits(weights: Floats, protos: Floats) -> Floats:
    """Return the sums of the prototypes [k, rows, columns] with these weights [m, k]: float32[m,
    rows, columns]."""
    summed: Floats = weights @ protos.reshape(len(protos), -1)
    return summed.reshape(-1, *protos.shape[1:])


def _cells_inside(boxes: Floats, protos: Floats, size: Size) -> NDArray[np.bool_]:
    """Return which cells of the prototypes lie inside boxes [m, 4] of the input, bool[m, rows,
    columns]."""
    height, width = sides(size)
    _, rows, columns = protos.shape
    scaled = boxes * np.tile([columns / width, rows / height], 2)
    left, top, right, bottom = (side[:, None] for side in scaled.T)
    x, y = np.arange(columns), np.arange(rows)
    across, down = (x >= left) & (x < right), (y >= top) & (y < bottom)
    inside: NDArray[np.bool_] = down[:, :, None] & across[:, None, :]
    return inside
