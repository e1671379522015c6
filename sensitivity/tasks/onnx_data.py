"""Images for Q/DQ files, as numpy arrays as the file takes them. Arrays: see `onnx_arrays`."""

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
"""Of what is left where some samples are set aside to calibrate on."""

LARGEST_CALIBRATION = 5
"""One part in so many of the data at most is set aside to calibrate on."""

Kind = Literal["boxes", "folders", "arrays", "images"]
"""What labels are: of objects in images, folders of images by class, or in an .npz; images of a
folder have none."""

FILES: Mapping[str, Kind] = {".npz": "arrays", ".json": "boxes"}
"""Files of data by how their names end; data YAMLs are apart."""

ANNOTATIONS = "instances.json"

PARTS = ("val", "valid", "validation", "test")
"""Folders of a data set for what is measured, the first that is there counts."""


@dataclass(frozen=True, eq=False)
class DetectionBatches(detection.ImageBatches):
    """Batches as numpy arrays, letterboxed or stretched over the input; targets as in
    `detection.ImageBatches`."""

    pixels: Pixels = RGB_TO_ONE

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        for images, targets in self.arrays():
            yield self.pixels(images), targets


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
            if self.layout == "nhwc":
                pixels = pixels.transpose(0, 2, 3, 1)
            labels = self.images.labels[numbers.start : numbers.stop]
            yield np.ascontiguousarray(pixels), labels


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
        if self.source is not None:
            return 0
        return self.samples


def data_kind(data: Path) -> Kind:
    """What `--data` names. Raises TaskError for anything else."""
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
    """Whether this is a folder of images with boxes, as COCO or YOLO has them."""
    if not data.is_dir():
        return False
    return is_coco(data) or holds_labels(data)


def described(data: Path) -> Path:
    """The data YAML in a folder that has one and only one; else what is given."""
    files = list(data.glob("*.y*ml"))
    if len(files) != 1 or is_coco(data):
        return data
    return files[0]


def is_coco(data: Path) -> bool:
    """Whether a path is COCO annotations, or a folder that holds them."""
    return data.suffix == ".json" or (data / ANNOTATIONS).is_file()


def boxes(
    data: Path, names: Sequence[str], images: Path | None = None, form: LabelForm = BOXES
) -> LabelledImages:
    """Labelled images of a detector, in any of its forms.

    names: of the model's classes, empty where the file does not say; then those of the data stand.
    images: folder of the images of COCO annotations; None for `images` beside them, or where they
    are. form: what is wanted of the labels. Raises TaskError where neither the file nor the data
    names the classes, or they differ.
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
    """The images with classes numbered as the model numbers them.

    Where all that is shown in them has a name that the model has too, the names count; else the
    numbers do, if they are as many. Raises TaskError where neither fits.
    """
    if not names or tuple(names) == found.names:
        return found
    number = {name.lower(): at for at, name in enumerate(names)}
    place = np.array([number.get(name.lower(), -1) for name in found.names], np.int64)
    shown = np.unique(np.concatenate([image.classes for image in found.images]))
    strange = shown[place[shown] < 0]
    if strange.size == 0:
        images = [replace(image, classes=place[image.classes]) for image in found.images]
        return LabelledImages(tuple(images), tuple(names))
    if len(names) == len(found.names):
        return found
    raise TaskError(
        f"Expected {data} to show classes that the model has by its metadata ({len(names)}, first "
        f"{', '.join(names[:3])}), got {len(found.names)} with {found.names[strange[0]]!r} among "
        "them; use the data that the model was trained for."
    )


def coco(data: Path, images: Path | None = None, form: LabelForm = BOXES) -> LabelledImages:
    """The images of COCO annotations, which lie beside the file or in a folder `images` beside
    it."""
    file = data if data.suffix == ".json" else data / ANNOTATIONS
    return coco_images(file, images or images_of(file), form)


def images_of(annotations: Path) -> Path:
    """Where the images of COCO annotations lie: in `images` beside them, or where they are."""
    beside = annotations.parent / "images"
    if beside.is_dir():
        return beside
    return annotations.parent


def folders(data: Path) -> Images:
    """The images of a folder with one folder for each class; of one with train and val the part
    that is measured."""
    if not (data / "train").is_dir():
        return images_by_class(data)
    parts = filter(Path.is_dir, (data / name for name in PARTS))
    return images_by_class(next(parts, data))


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

    source: COCO annotations, a data YAML, of which the train part counts, or a folder, of which all
    images do. Raises TaskError.
    """
    files = calibration_files(source, folder=images_of(source))
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
