"""Images for Q/DQ files, as numpy arrays as the file takes them. Arrays: see `onnx_arrays`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import TaskError
from sensitivity.seeds import generator
from sensitivity.tasks import classification, detection
from sensitivity.tasks.classification import Images, images_by_class, random_parts
from sensitivity.tasks.detection_boxes import (
    Floats,
    Suppression,
    decode_chosen,
    decode_objectness,
    decode_ultralytics,
    decode_yolox,
)
from sensitivity.tasks.detection_labels import LabelledImages, coco_images
from sensitivity.tasks.images import (
    SUFFIXES,
    Size,
    centre_crop,
    image_files,
    shown_size,
    sides,
)

SIZES: Mapping[str, float] = {"rank": 0.5, "confirm": 0.25, "holdout": 0.25}
"""Of what is left where some samples are set aside to calibrate on."""

LARGEST_CALIBRATION = 5
"""One part in so many of the data at most is set aside to calibrate on."""

DecodeName = Literal["yolo", "yolox", "yolov5", "end2end"]
Colours = Literal["rgb", "bgr"]
Layout = Literal["nchw", "nhwc"]
ANNOTATIONS = "instances.json"
RESIZE = 256 / 224
"""Shorter side before the crop, as a multiple of the crop: what ImageNet models are evaluated
with."""


@dataclass(frozen=True)
class Pixels:
    """How a file takes images. colours: their order. top: the value of white. layout: of the
    input's axes. dtype: the name of the input's type."""

    colours: Colours = "rgb"
    top: float = 1.0
    layout: Layout = "nchw"
    dtype: str = "float32"

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """uint8[n, h, w, 3] in RGB -> as the file takes it."""
        ordered = images if self.colours == "rgb" else images[..., ::-1]
        scaled = in_type(ordered.astype(np.float32) * np.float32(self.top / 255), self.dtype)
        return np.ascontiguousarray(
            scaled if self.layout == "nhwc" else scaled.transpose(0, 3, 1, 2)
        )


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

    layout: Layout = "nchw"

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for start in range(0, len(self.images.files), self.batch):
            numbers = range(start, min(start + self.batch, len(self.images.files)))
            made = [self._prepared(number) for number in numbers]
            self._check_shapes(made, numbers)
            pixels = np.stack(made)
            yield (
                np.ascontiguousarray(
                    pixels if self.layout == "nchw" else pixels.transpose(0, 2, 3, 1)
                ),
                self.images.labels[numbers.start : numbers.stop],
            )


@dataclass(frozen=True)
class Calibration:
    """Which samples calibrate. samples: at most so many. source: what they are taken from, labels
    not needed: images, COCO annotations or an .npz; None for a part of the data that is in no
    split."""

    samples: int
    source: Path | None = None

    @property
    def set_aside(self) -> int:
        """How many samples of the data calibrate."""
        return self.samples if self.source is None else 0


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
    got = (
        "nothing there"
        if not data.exists()
        else "a folder without them"
        if data.is_dir()
        else "another file"
    )
    raise TaskError(
        f"Expected --data {data} to be COCO annotations (a .json, or a folder with {ANNOTATIONS} "
        "and images/), a folder with one folder of images per class, or an .npz with inputs x and "
        f"labels y, got {got}; for anything else write a task file, see docs/onnx.md."
    )


def coco(data: Path, images: Path | None = None) -> LabelledImages:
    """The images of COCO annotations, which lie beside the file or in a folder `images` beside
    it."""
    file = data if data.suffix == ".json" else data / ANNOTATIONS
    beside = file.parent / "images"
    return coco_images(file, images or (beside if beside.is_dir() else file.parent))


def folders(data: Path) -> Images:
    """The images of a folder with one folder for each class."""
    return images_by_class(data)


def sizes_of(n: int, set_aside: int, shares: Mapping[str, float] = SIZES) -> Mapping[str, float]:
    """How many of n samples each split gets; "calib" comes first where samples are set aside.

    set_aside: how many samples calibrate, at most a fifth of all; 0 for none. shares: of the
    others.

    >>> sizes_of(100, 64)
    {'calib': 20, 'rank': 40, 'confirm': 20, 'holdout': 20}
    """
    calib = min(set_aside, n // LARGEST_CALIBRATION)
    if not calib:
        return shares
    return {"calib": calib} | {name: int((n - calib) * share) for name, share in shares.items()}


def calibration_images(source: Path, samples: int, seed: int | None = None) -> list[Path]:
    """At most so many image files, drawn at random, the same for the same seed.

    source: COCO annotations, or a folder, of which all images count. Raises TaskError.
    """
    if source.is_file() and source.suffix == ".json":
        files = [image.file for image in coco(source).images]
    else:
        files = image_files(source)
    if not files:
        raise TaskError(
            f"Expected images to calibrate with at {source}, got none that end in "
            f"{', '.join(sorted(SUFFIXES))}."
        )
    order = generator(seed).permutation(len(files))[:samples]
    return [files[at] for at in sorted(order)]


def split_folders(
    images: Images,
    transform: Callable[[Any], NDArray[Any]],
    layout: Layout,
    batch: int,
    *,
    set_aside: int = 0,
    seed: int | None = None,
) -> dict[str, ImageBatches]:
    """Split name -> random images, the same for the same seed. set_aside: see `sizes_of`."""
    parts = random_parts(len(images.files), sizes_of(len(images.files), set_aside), seed)
    return {
        name: ImageBatches(images.take(at), transform, batch, layout=layout)
        for name, at in parts.items()
    }


@dataclass(frozen=True)
class ClassifierPixels:
    """From an RGB image to [3, height, width] as a classifier takes it: the usual crop, then
    colours and scale.

    top: the value of white, where black is 0; None for ImageNet's mean and deviation. dtype: the
    name of the file's type.
    """

    size: Size
    colours: Colours = "rgb"
    top: float | None = None
    dtype: str = "float32"

    def __call__(self, image: Any) -> NDArray[Any]:
        height, width = sides(self.size)
        resize = round(height * RESIZE), round(width * RESIZE)
        if self.top is None:
            made = centre_crop(self.size, resize=resize)(image)
        else:
            whole = centre_crop(
                self.size, resize=resize, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
            )(image)
            # 255 levels, whatever dividing them left
            made = np.rint(whole * 255) * np.float32(self.top / 255)
        ordered = made if self.colours == "rgb" else made[::-1]
        return np.ascontiguousarray(in_type(ordered, self.dtype))


def in_type(pixels: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Pixels in the type of a file's input; whole numbers are rounded to."""
    return (np.rint(pixels) if whole_numbers(dtype) else pixels).astype(dtype)


def whole_numbers(dtype: str) -> bool:
    """Whether a type of this name holds integers."""
    return np.dtype(dtype).kind in "iu"


def decode_name(shape: Sequence[Any], size: Size, classes: int) -> DecodeName:
    """What a detector's first output means, told by its shape. Raises TaskError where it is none of
    those known."""
    given = [side if isinstance(side, int) else None for side in shape]
    found = _known_decode(given[1], given[2], size, classes) if len(given) == 3 else None
    if found is not None:
        return found
    raise TaskError(
        "Expected the file's first output to be that of YOLOX without decoding or of YOLOv5 [n, "
        f"anchors, {5 + classes}], of ultralytics' YOLO [n, {4 + classes}, anchors] or of its "
        f"end2end export [n, 300, 6] for {classes} class{'es' if classes > 1 else ''}, got "
        f"{list(shape)} at input size {shown_size(size)}; say which it is with --decode, or write "
        "a task file with a `decode` of your own, see docs/onnx.md."
    )


def _known_decode(
    rows: int | None, columns: int | None, size: Size, classes: int
) -> DecodeName | None:
    """What an output [n, rows, columns] means; None where it is none of those known."""
    is_rows_of_boxes = rows is not None and _cells(size, rows) is None
    if columns == 6 and is_rows_of_boxes:
        return "end2end"
    # With one class, six columns are those of end2end too: only the number of rows can tell.
    can_be_anchors = classes != 1 or rows is not None
    if columns == 5 + classes and can_be_anchors:
        return "yolov5" if _cells(size, rows) == 3 else "yolox"
    return "yolo" if rows == 4 + classes else None


MEANINGS: Mapping[DecodeName, str] = {
    "yolo": "that of ultralytics' YOLO",
    "yolox": "that of YOLOX without decoding",
    "yolov5": "that of YOLOv5 or v7",
    "end2end": "chosen boxes (end2end: corners, confidence, class), not YOLOX",
}


def reading(name: DecodeName, shape: Sequence[Any]) -> str:
    """A sentence on what a detector's output was taken for."""
    return (
        f"Its output {list(shape)} was taken for {MEANINGS[name]}, and its colours for those it is "
        "trained with: --decode, or `colours` and `top` in the task file, say otherwise."
    )


def _cells(size: Size, anchors: int | None) -> int | None:
    """How many anchors each cell of a detector has, 1 or 3; None where so many anchors belong to no
    such detector."""
    height, width = sides(size)
    for strides in ((8, 16, 32), (8, 16, 32, 64)):
        cells = sum((height // step) * (width // step) for step in strides)
        if anchors in (cells, 3 * cells):
            return 1 if anchors == cells else 3
    return None


@dataclass(frozen=True)
class Decode:
    """Model outputs -> boxes and confidences, as `detection_task` wants it."""

    name: DecodeName
    size: Size
    classes: int

    def __call__(self, outputs: Any) -> tuple[Floats, Floats]:
        if self.name == "yolox":
            return decode_yolox(outputs, self.size)
        if self.name == "yolov5":
            return decode_objectness(outputs)
        return (
            decode_chosen(outputs, self.classes)
            if self.name == "end2end"
            else decode_ultralytics(outputs)
        )

    @property
    def rule(self) -> Suppression:
        """Which boxes are reported: of a model that chooses them itself, all."""
        return Suppression(iou=1.0) if self.name == "end2end" else Suppression()


PIXELS: Mapping[DecodeName, Pixels] = {
    "yolo": Pixels("rgb", 1.0),
    "yolox": Pixels("bgr", 255.0),
    "yolov5": Pixels("rgb", 1.0),
    "end2end": Pixels("rgb", 1.0),
}
"""What they are trained with."""
