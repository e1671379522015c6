"""Images for Q/DQ files, as numpy arrays in the form that the file takes. `onnx_arrays` reads data
that is in arrays already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import TaskError
from sensitivity.seeds import generator
from sensitivity.tasks import classification, detection
from sensitivity.tasks.classification import Images, images_by_class, random_parts
from sensitivity.tasks.detection_labels import BOXES, LabelForm, LabelledImages, coco_images
from sensitivity.tasks.images import image_files
from sensitivity.tasks.onnx_pixels import RGB_TO_ONE, Layout, Pixels
from sensitivity.tasks.yolo_data import (
    YAML,
    calibration_files,
    holds_labels,
    labelled,
    measured_split,
    names_in,
)

SIZES: Mapping[str, float] = {"rank": 0.5, "confirm": 0.25, "holdout": 0.25}
"""Share of each split in the samples that are not set aside for calibration."""

LARGEST_CALIBRATION = 5
"""At most one sample in this many is set aside for calibration."""

Kind = Literal["boxes", "folders", "arrays", "images"]
"""The form of the data: labelled objects in images, one folder of images per class, an .npz file,
or a folder of images without labels."""

FILES: Mapping[str, Kind] = {".npz": "arrays", ".json": "boxes"}
"""Suffix of a data file -> its form. Data YAMLs are recognised by `YAML`."""

ANNOTATIONS = "instances.json"

PARTS = ("val", "valid", "validation", "test")
"""Folders of a data set that may hold the part to measure; the first one that exists is used."""


@dataclass(frozen=True, eq=False)
class DetectionBatches(detection.ImageBatches):
    """Batches of images as numpy arrays, letterboxed or stretched over the input, with the targets
    of `detection.ImageBatches`.

    pixels: turns RGB images into the form that the file takes.
    """

    pixels: Pixels = RGB_TO_ONE

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        for images, targets in self.arrays():
            yield self.pixels(images), targets


@dataclass(frozen=True, eq=False)
class ImageBatches(classification.ImageBatches):
    """Batches (float32[n, ...], int64[n]) of labelled images as numpy arrays.

    layout: the order of the input's axes.
    """

    layout: Layout = "nchw"

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for start in range(0, len(self.images.files), self.batch):
            numbers = range(start, min(start + self.batch, len(self.images.files)))
            prepared = [self._prepared(number) for number in numbers]
            self._check_shapes(prepared, numbers)
            pixels = np.stack(prepared)
            if self.layout == "nhwc":
                pixels = pixels.transpose(0, 2, 3, 1)
            labels = self.images.labels[numbers.start : numbers.stop]
            yield np.ascontiguousarray(pixels), labels


@dataclass(frozen=True)
class Calibration:
    """Which samples are used for calibration.

    samples: the most samples that are used.
    source: images, COCO annotations or an .npz to take them from; labels are not needed. None sets
        a part of the data aside, which is then in no split.
    """

    samples: int
    source: Path | None = None

    @property
    def set_aside(self) -> int:
        """The number of samples of the data to set aside for calibration."""
        if self.source is not None:
            return 0
        return self.samples


def data_kind(data: Path) -> Kind:
    """Return the form of the data that `--data` names. Raises TaskError for anything else."""
    place = described(data)
    if place.is_file() and place.suffix in FILES:
        return FILES[place.suffix]
    if place.suffix in YAML or _holds_boxes(data):
        return "boxes"
    if any(map(Path.is_dir, data.glob("*"))):
        return "folders"
    if data.is_dir() and image_files(data):
        return "images"
    kinds = {(False, False): "nothing there", (True, False): "another file"}
    got = kinds.get((data.exists(), data.is_dir()), "a folder without them")
    raise TaskError(
        f"Expected --data {data} to be COCO annotations (a .json, or a folder with {ANNOTATIONS} "
        "and images/), a data YAML or a folder with images/ and labels/ as YOLO has them, a folder "
        "with one folder of images per class, an .npz with inputs x and labels y, or either "
        f"without labels, to be compared with the float model, got {got}; for anything else write "
        "a task file, see docs/onnx.md."
    )


def _holds_boxes(data: Path) -> bool:
    """Return whether this is a folder of images with boxes, as COCO or YOLO has them."""
    if not data.is_dir():
        return False
    return is_coco(data) or holds_labels(data)


def described(data: Path) -> Path:
    """Return the data YAML of a folder that holds exactly one; otherwise the given path."""
    files = list(data.glob("*.y*ml"))
    if len(files) != 1 or is_coco(data):
        return data
    return files[0]


def is_coco(data: Path) -> bool:
    """Return whether a path is COCO annotations, or a folder that holds them."""
    return data.suffix == ".json" or (data / ANNOTATIONS).is_file()


def boxes(
    data: Path, names: Sequence[str], images: Path | None = None, form: LabelForm = BOXES
) -> LabelledImages:
    """Return the labelled images of a detector's data set, in any of its forms.

    data: COCO annotations, a data YAML, or a folder of images and labels.
    names: the class names of the model. Empty if the file does not hold them; the names in the data
        are then used.
    images: the folder with the images of COCO annotations. None takes the folder `images` beside
        the annotations, or the folder that holds them.
    form: what to read from the labels.
    Raises TaskError if neither the file nor the data names the classes, or if their classes differ.
    """
    data = described(data)
    if is_coco(data):
        return as_model(coco(data, images, form), names, data)
    own = names_in(data) if data.suffix in YAML else ()
    if not own and not names:
        raise TaskError(
            f"Expected names of the classes in {data}, as the file has none in its metadata, got "
            "none; give a data YAML with `names`, or COCO annotations."
        )
    found = labelled(data, own or names, split=measured_split(data), form=form)
    return as_model(found, names, data)


def as_model(found: LabelledImages, names: Sequence[str], data: Path) -> LabelledImages:
    """Return the images with their classes numbered as by the model.

    Classes are matched by name if the model knows the names of all objects in the images, and
    otherwise by number if the data has as many classes as the model. Raises TaskError if neither
    holds.
    """
    if not names or tuple(names) == found.names:
        return found
    number_by_name = {name.lower(): number for number, name in enumerate(names)}
    numbers = [number_by_name.get(name.lower(), -1) for name in found.names]
    model_class = np.array(numbers, np.int64)
    shown = np.unique(np.concatenate([image.classes for image in found.images]))
    unknown = shown[model_class[shown] < 0]
    if unknown.size == 0:
        images = [replace(image, classes=model_class[image.classes]) for image in found.images]
        return replace(found, images=tuple(images), names=tuple(names), ids=())
    if len(names) == len(found.names):
        return found
    raise TaskError(
        f"Expected {data} to show classes that the model has by its metadata ({len(names)}, first "
        f"{', '.join(names[:3])}), got {len(found.names)} with {found.names[unknown[0]]!r} among "
        "them; use the data that the model was trained for."
    )


def coco(data: Path, images: Path | None = None, form: LabelForm = BOXES) -> LabelledImages:
    """Return the images of COCO annotations, which lie beside the file or in a folder `images`
    beside it."""
    file = data if data.suffix == ".json" else data / ANNOTATIONS
    return coco_images(file, images or images_of(file), form)


def images_of(annotations: Path) -> Path:
    """Return the folder with the images of COCO annotations: `images` beside them, or the folder
    that holds them."""
    beside = annotations.parent / "images"
    if beside.is_dir():
        return beside
    return annotations.parent


def folders(data: Path) -> Images:
    """Return the images of a folder with one folder per class. Of a folder with a part for
    training, only the part to measure is read."""
    if not (data / "train").is_dir():
        return images_by_class(data)
    parts = filter(Path.is_dir, (data / name for name in PARTS))
    return images_by_class(next(parts, data))


def sizes_of(n: int, set_aside: int, shares: Mapping[str, float] = SIZES) -> Mapping[str, float]:
    """Return the size of each split of n samples, as counts or shares. "calib" comes first if
    samples are set aside.

    set_aside: samples to set aside for calibration; at most a fifth of all are. 0 sets none aside.
    shares: share of each split in the other samples.

    >>> sizes_of(100, 64)
    {'calib': 20, 'rank': 40, 'confirm': 20, 'holdout': 20}
    """
    calib = min(set_aside, n // LARGEST_CALIBRATION)
    if not calib:
        return shares
    return {"calib": calib} | {name: int((n - calib) * share) for name, share in shares.items()}


def calibration_images(source: Path, samples: int, seed: int | None = None) -> list[Path]:
    """Return at most `samples` image files, drawn at random, the same for the same seed.

    source: COCO annotations, a data YAML, whose train part is used, or a folder, of which all
        images are used.
    seed: None takes the seed of the command, --seed.
    Raises TaskError if there are no images.
    """
    files = calibration_files(source, folder=images_of(source))
    drawn = generator(seed).permutation(len(files))[:samples]
    return [files[number] for number in sorted(drawn)]


def split_folders(
    images: Images,
    transform: Callable[[Any], NDArray[Any]],
    layout: Layout,
    batch: int,
    *,
    set_aside: int = 0,
    seed: int | None = None,
) -> dict[str, ImageBatches]:
    """Draw the images of each split at random, the same for the same seed.

    transform: an RGB image -> array, the same shape for all.
    set_aside: see `sizes_of`.
    seed: None takes the seed of the command, --seed.
    """
    count = len(images.files)
    parts = random_parts(count, sizes_of(count, set_aside), seed)
    return {
        name: ImageBatches(images.take(numbers), transform, batch, layout=layout)
        for name, numbers in parts.items()
    }
