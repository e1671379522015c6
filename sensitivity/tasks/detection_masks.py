"""Instance masks: those of a model from prototypes and coefficients, the true ones from outlines,
and how far they overlap.

Masks are compared in pixels of the image, as COCO does; pycocotools draws the outlines and counts
the pixels. Truth goes with a batch as COCO's compressed run lengths, a few hundred bytes a mask.

Source: YOLACT (arXiv 1904.02689), as ultralytics gives it: the mask of a detection is where the sum
of the prototypes, weighted by its coefficients, is above 0 inside its box.
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
"""COCO's compressed run lengths of a mask: "size" [height, width] and "counts", bytes."""


@dataclass(frozen=True)
class Masks:
    """Masks of a segmentation YOLO of ultralytics.

    classes: how many. size: of the input. chosen: the model chooses its boxes itself, [n, most, 6 +
    coefficients].
    """

    classes: int
    size: Size
    chosen: bool = False

    name = "mask"

    def truth(self, images: Sequence[LabelledImage], most: int) -> dict[str, NDArray[Any]]:
        """{"masks": uint8[n, most, bytes]}, run lengths with zeros behind them."""
        runs = [[one["counts"] for one in true_masks(image)] for image in images]
        longest = max([1, *(len(counts) for counted in runs for counts in counted)])
        masks = np.zeros((len(images), most, longest), np.uint8)
        for row, counted in enumerate(runs):
            for at, counts in enumerate(counted):
                masks[row, at, : len(counts)] = np.frombuffer(counts, np.uint8)
        return {"masks": masks}

    def overlaps(
        self,
        found: Detections,
        truth: Truth,
        outputs: Any,
        targets: Mapping[str, NDArray[Any]],
    ) -> Overlaps:
        """Intersection over union of masks; over the detection's own area where the truth is a
        crowd. Pairs that cannot reach half of it have 0."""
        coefficients, protos = self.reported(outputs)
        values = np.zeros((*found.classes.shape, truth.classes.shape[1]))
        assert found.anchors is not None
        for image, geometry in enumerate(targets["geometry"]):
            width, height = int(geometry[4]), int(geometry[5])
            true = [_runs(row, width, height) for row in targets["masks"][image]]
            pairs = _possible(found, truth, true, image)
            some, objects = np.flatnonzero(pairs.any(axis=1)), np.flatnonzero(pairs.any(axis=0))
            if not some.size:
                continue
            weights = coefficients[image, found.anchors[image, some]]
            drawn = Drawing(protos[image], geometry, self.size)
            masks = drawn.masks(weights, found.boxes[image, some])
            crowd = truth.crowd[image, objects].tolist()
            shared = optional.mask_tools.iou(masks, [true[at] for at in objects], crowd)
            values[image, some[:, None], objects] = shared
            values[image] *= pairs
        return Overlaps(values, truth.crowd)

    def reported(self, outputs: Any) -> list[Floats]:
        """Coefficients float32[n, anchors, k] and prototypes float32[n, k, rows, columns]."""
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
        """1 less the overlap of masks at the resolution of the prototypes, float[n, k]."""
        lacking = np.zeros(anchors.shape)
        for image in range(len(anchors)):
            inside = _cells_inside(boxes[image], own[1][image], self.size)
            one, two = (
                inside & (_logits(weights[image, anchors[image]], protos[image]) > 0)
                for weights, protos in (own, other)
            )
            union = (one | two).sum(axis=(1, 2))
            shared = (one & two).sum(axis=(1, 2))
            lacking[image] = 1 - np.where(union > 0, shared / np.maximum(union, 1), 1)
        return lacking


@dataclass(frozen=True, eq=False)
class Drawing:
    """Where the prototypes of an image lie in it.

    protos: float32[k, rows, columns] over the whole input. geometry: float64[6] of the image in the
    input, see `detection_images`. size: of the input.
    """

    protos: Floats
    geometry: NDArray[np.float64]
    size: Size

    def masks(self, weights: Floats, boxes: Floats) -> list[Runs]:
        """The mask of each detection in pixels of the image, cut at its box.

        weights: float[m, k]. boxes: float[m, 4] in pixels of the image.
        """
        logits = _logits(weights, self.protos)
        width, height = self.geometry[4:].astype(int).tolist()
        whole = np.zeros((height, width), np.uint8, order="F")
        made = []
        for values, (left, top, right, bottom) in zip(logits, np.ceil(boxes), strict=True):
            part = np.s_[int(top) : int(bottom), int(left) : int(right)]
            rows, columns = np.arange(height)[part[0]], np.arange(width)[part[1]]
            whole[:] = 0
            whole[part] = self._sampled(values, rows, columns) > 0
            made.append(optional.mask_tools.encode(whole))
        return made

    def _sampled(self, values: Floats, rows: NDArray[Any], columns: NDArray[Any]) -> Floats:
        """Bilinear values at the centres of these pixels of the image, float32[rows, columns]."""
        height, width = sides(self.size)
        scale_x, scale_y, left, top = self.geometry[:4]
        inner_x, inner_y = np.rint(self.geometry[4:] / self.geometry[:2])
        across = _Between(columns, scale_x, left, inner_x, values.shape[1] / width)
        down = _Between(rows, scale_y, top, inner_y, values.shape[0] / height)
        lines = down.mixed(values)
        return across.mixed(lines.T).T


class _Between:
    """Cells of a prototype that pixels of an image lie between, along one axis.

    pixels: int[m]. scale: image pixels per input pixel. border, inner: where the image begins in
    the input, and its length there. ratio: cells per input pixel.
    """

    def __init__(
        self, pixels: NDArray[Any], scale: float, border: float, inner: float, ratio: float
    ) -> None:
        places = ((pixels + 0.5) / scale + border) * ratio - 0.5
        # the border around the image has cells too, which say nothing about it
        first, last = np.floor(border * ratio), np.ceil((border + inner) * ratio) - 1
        places = np.clip(places, first, last)
        self._low = np.floor(places).astype(np.int64)
        self._high = np.minimum(self._low + 1, int(last))
        self._share = (places - self._low).astype(np.float32)[:, None]

    def mixed(self, values: Floats) -> Floats:
        """float32[m, ...] of values [cells, ...]."""
        mixed: Floats = values[self._low] * (1 - self._share) + values[self._high] * self._share
        return mixed


def true_masks(image: LabelledImage) -> list[Runs]:
    """The masks of an image's objects in its own pixels. Raises MissingPackage, and TaskError for
    objects without an outline."""
    tools = _tools()
    if image.outlines is None and len(image.boxes):
        raise TaskError(
            f"Expected outlines of the objects in {image.file.name} for a segmentation model, got "
            "boxes alone; give COCO annotations with `segmentation`, or YOLO label files with the "
            "points of each outline."
        )
    width, height = image.size or image_size(image.file)
    made = []
    for outline in image.outlines or ():
        runs = outline
        if isinstance(outline, list) or isinstance(outline["counts"], list):
            runs = tools.frPyObjects(outline, height, width)
        made.append(tools.merge(runs) if isinstance(runs, list) else _in_bytes(runs))
    return made


def _in_bytes(runs: Runs) -> Runs:
    counts = runs["counts"]
    return {"size": runs["size"], "counts": counts.encode() if isinstance(counts, str) else counts}


def _tools() -> Any:
    try:
        return optional.mask_tools
    except ImportError:
        raise MissingPackage("pycocotools", "judging masks", "masks") from None


def _runs(row: NDArray[np.uint8], width: int, height: int) -> Runs:
    """A mask of `Masks.truth`."""
    return {"size": [height, width], "counts": row.tobytes().rstrip(b"\0")}


def _possible(found: Detections, truth: Truth, true: list[Runs], image: int) -> NDArray[np.bool_]:
    """bool[limit, most]: whether a detection and an object of an image may overlap by half: of one
    class, and with boxes that share enough of the object's mask."""
    same = found.classes[image][:, None] == truth.classes[image]
    same &= (found.confidences[image] > 0)[:, None]
    around = optional.mask_tools.toBbox(true)
    around[:, 2:] += around[:, :2]
    shared = intersections(_whole_pixels(found.boxes[image]), around)
    area = optional.mask_tools.area(true).astype(np.float64)
    # A crowd need not be covered: all that is inside it is ignored.
    least = np.where(truth.crowd[image], 0, IOUS[0] * area)
    enough: NDArray[np.bool_] = same & (shared > 0) & (shared >= least)
    return enough


def _whole_pixels(boxes: Floats) -> Floats:
    """Boxes [..., 4] that cover every pixel that they touch."""
    return np.concatenate([np.floor(boxes[..., :2]), np.ceil(boxes[..., 2:])], axis=-1)


def _logits(weights: Floats, protos: Floats) -> Floats:
    """float32[m, rows, columns]: the prototypes summed with these weights [m, k]."""
    summed: Floats = (weights @ protos.reshape(len(protos), -1)).reshape(-1, *protos.shape[1:])
    return summed


def _cells_inside(boxes: Floats, protos: Floats, size: Size) -> NDArray[np.bool_]:
    """bool[m, rows, columns]: cells of the prototypes inside boxes [m, 4] of the input."""
    height, width = sides(size)
    _, rows, columns = protos.shape
    scaled = boxes * np.tile([columns / width, rows / height], 2)
    left, top, right, bottom = (side[:, None] for side in scaled.T)
    x, y = np.arange(columns), np.arange(rows)
    across, down = (x >= left) & (x < right), (y >= top) & (y < bottom)
    inside: NDArray[np.bool_] = down[:, :, None] & across[:, None, :]
    return inside
