"""Data for Q/DQ files, as numpy arrays: labelled images as the file takes them, and arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import TaskError
from sensitivity.tasks import classification, detection
from sensitivity.tasks.classification import Images, Labels, images_by_class, random_parts
from sensitivity.tasks.detection_boxes import Floats, decode_ultralytics, decode_yolox
from sensitivity.tasks.detection_labels import LabelledImages, coco_images
from sensitivity.tasks.images import centre_crop

SIZES: Mapping[str, float] = {"rank": 0.5, "confirm": 0.25, "holdout": 0.25}
"""The file is calibrated already: no samples are set aside for that."""

DecodeName = Literal["yolo", "yolox"]
ANNOTATIONS = "instances.json"
RESIZE = 256 / 224
"""Shorter side before the crop, as a multiple of the crop: what ImageNet models are evaluated with."""


@dataclass(frozen=True)
class Pixels:
    """How a file takes images. colours: their order. top: the value of white. layout: of the input's axes."""

    colours: Literal["rgb", "bgr"] = "rgb"
    top: float = 1.0
    layout: Literal["nchw", "nhwc"] = "nchw"

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8[n, h, w, 3] in RGB -> float32 as the file takes it."""
        ordered = images if self.colours == "rgb" else images[..., ::-1]
        scaled = ordered.astype(np.float32) * np.float32(self.top / 255)
        return np.ascontiguousarray(scaled if self.layout == "nhwc" else scaled.transpose(0, 3, 1, 2))


@dataclass(frozen=True, eq=False)
class DetectionBatches(detection.ImageBatches):
    """Letterboxed batches as numpy arrays; targets as in `detection.ImageBatches`."""

    pixels: Pixels = Pixels()

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        for start in range(0, len(self.images), self.batch):
            numbers = range(start, min(start + self.batch, len(self.images)))
            images, geometry = zip(*(self._letterboxed(number) for number in numbers), strict=True)
            truth = detection.pad_truth([self.images[number] for number in numbers], self.most)
            targets = {"boxes": truth.boxes, "classes": truth.classes, "crowd": truth.crowd}
            yield self.pixels(np.stack(images)), {**targets, "geometry": np.stack(geometry)}


@dataclass(frozen=True, eq=False)
class ImageBatches(classification.ImageBatches):
    """Batches (float32[n, ...], int64[n]) of labelled images as numpy arrays."""

    layout: Literal["nchw", "nhwc"] = "nchw"

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for start in range(0, len(self.images.files), self.batch):
            numbers = range(start, min(start + self.batch, len(self.images.files)))
            made = [self._prepared(number) for number in numbers]
            self._check_shapes(made, numbers)
            pixels = np.stack(made)
            yield (
                np.ascontiguousarray(pixels if self.layout == "nchw" else pixels.transpose(0, 2, 3, 1)),
                self.images.labels[numbers.start : numbers.stop],
            )


@dataclass(frozen=True, eq=False)
class ArrayBatches:
    """Batches (x, y) of two arrays, in their order, again and again."""

    x: NDArray[Any]
    y: Labels
    batch: int = 50
    classes: int | None = field(default=None)

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for start in range(0, len(self.x), self.batch):
            yield self.x[start : start + self.batch], self.y[start : start + self.batch]


def data_kind(data: Path) -> Literal["coco", "folders", "arrays"]:
    """What `--data` names. Raises TaskError for anything else."""
    if data.suffix == ".npz" and data.is_file():
        return "arrays"
    if data.suffix == ".json" and data.is_file():
        return "coco"
    if (data / ANNOTATIONS).is_file():
        return "coco"
    if data.is_dir() and any(path.is_dir() for path in data.iterdir()):
        return "folders"
    got = "nothing there" if not data.exists() else "a folder without them" if data.is_dir() else "another file"
    raise TaskError(
        f"Expected --data {data} to be COCO annotations (a .json, or a folder with {ANNOTATIONS} and images/), a folder "
        f"with one folder of images per class, or an .npz with inputs x and labels y, got {got}; for anything else "
        "write a task file, see docs/onnx.md."
    )


def coco(data: Path, images: Path | None = None) -> LabelledImages:
    """The images of COCO annotations, which lie beside the file or in a folder `images` beside it."""
    file = data if data.suffix == ".json" else data / ANNOTATIONS
    beside = file.parent / "images"
    return coco_images(file, images or (beside if beside.is_dir() else file.parent))


def folders(data: Path) -> Images:
    return images_by_class(data)


def arrays(data: Path) -> tuple[NDArray[Any], Labels]:
    """Inputs and labels of an .npz: `x` and `y`, or its two arrays, of which the integers of one axis are the labels."""
    with np.load(data, allow_pickle=False) as content:
        found = {name: content[name] for name in content.files}
    if {"x", "y"} <= found.keys():
        return found["x"], found["y"].astype(np.int64)
    labels = [name for name, array in found.items() if array.ndim == 1 and array.dtype.kind in "iu"]
    if len(found) != 2 or len(labels) != 1:
        listed = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in found.items())
        raise TaskError(
            f"Expected {data} to hold inputs x and labels y (integers, one for each sample), got {listed or 'nothing'}; "
            "save it with numpy.savez(file, x=inputs, y=labels)."
        )
    (inputs,) = found.keys() - set(labels)
    return found[inputs], found[labels[0]].astype(np.int64)


def split_arrays(x: NDArray[Any], y: Labels, batch: int, seed: int = 0) -> dict[str, ArrayBatches]:
    parts = random_parts(len(x), SIZES, seed)
    return {name: ArrayBatches(np.ascontiguousarray(x[at]), y[at], batch) for name, at in parts.items()}


def split_folders(
    images: Images, size: int, layout: Literal["nchw", "nhwc"], batch: int, seed: int = 0
) -> dict[str, ImageBatches]:
    transform = centre_crop(size, resize=round(size * RESIZE))
    parts = random_parts(len(images.files), SIZES, seed)
    return {name: ImageBatches(images.take(at), transform, batch, layout=layout) for name, at in parts.items()}


def decode_name(shape: Sequence[Any], size: int, classes: int) -> DecodeName:
    """What a detector's first output means, told by its shape. Raises TaskError where it is neither."""
    sides = [side if isinstance(side, int) else None for side in shape]
    if len(sides) == 3 and sides[2] == 5 + classes:
        return "yolox"
    if len(sides) == 3 and sides[1] == 4 + classes:
        return "yolo"
    raise TaskError(
        f"Expected the file's first output to be that of YOLOX without decoding [n, anchors, {5 + classes}] or of "
        f"ultralytics' YOLO [n, {4 + classes}, anchors] for {classes} classes, got {list(shape)} at input size {size}; "
        "write a task file with a `decode` of your own, see docs/onnx.md."
    )


@dataclass(frozen=True)
class Decode:
    """Model outputs -> boxes and confidences, as `detection_task` wants it."""

    name: DecodeName
    size: int

    def __call__(self, outputs: Any) -> tuple[Floats, Floats]:
        return decode_yolox(outputs, self.size) if self.name == "yolox" else decode_ultralytics(outputs)


PIXELS: Mapping[DecodeName, Pixels] = {"yolo": Pixels("rgb", 1.0), "yolox": Pixels("bgr", 255.0)}
"""What the two are trained with."""
