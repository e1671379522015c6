"""Labelled images in the forms that YOLO users have: a data YAML, COCO JSON, or a folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from itertools import filterfalse, product
from pathlib import Path
from typing import Any

import numpy as np

from sensitivity.errors import MissingPackage, TaskError, begun
from sensitivity.tasks.detection_images import image_size
from sensitivity.tasks.detection_labels import (
    BOXES,
    LabelForm,
    LabelledImage,
    LabelledImages,
    coco_images,
    labelled_files,
    yolo_images,
)
from sensitivity.tasks.images import SUFFIXES, image_files

YAML = (".yaml", ".yml")
FIRST = 50
"""The number of images of a folder whose label files are looked for."""

FORMS = "a data YAML, a COCO JSON file, or a folder that holds images and labels"


def labelled(
    data: Path,
    names: Sequence[str],
    *,
    split: str,
    folder: Path | None = None,
    form: LabelForm = BOXES,
) -> LabelledImages:
    """Return the labelled images of a data set, which must have the classes of the model.

    data: a data YAML as ultralytics takes it; a COCO JSON file; or a folder with `images` and
        `labels` (YOLO text files).
    names: the class names of the model, which are used if the data set has no names of its own.
    split: the part of a YAML or a folder to read.
    folder: the folder with the images of a COCO JSON file. None takes `images` beside it.
    form: what to read from the labels.
    Raises TaskError if something is missing, or if the model has another number of classes.
    """
    if data.is_dir():
        return _of_folder(data, names, split, form)
    if data.suffix in YAML:
        return _from_yaml(data, names, split, form)
    if data.suffix == ".json":
        found = coco_images(data, folder or _beside(data), form)
        _check_classes(found.names, names, data)
        return found
    raise _no_form("--data", data, f"nothing there (from {Path.cwd()})")


def calibration_files(data: Path, *, folder: Path | None = None) -> list[Path]:
    """Return the image files to calibrate with, from data in any of the forms of `labelled`.

    Labels are not needed. Of a YAML, the train part is taken. Raises TaskError if there are no
    images.
    """
    files = _image_files(data, folder)
    if not files:
        raise TaskError(
            f"Expected images to calibrate with at {data}, got none that end in "
            f"{', '.join(sorted(SUFFIXES))}."
        )
    return files


def _image_files(data: Path, folder: Path | None) -> list[Path]:
    """Return the image files of data in any of the forms. Of a YAML, the train part is taken."""
    if data.is_dir():
        return image_files(data)
    if data.suffix in YAML:
        file = _find_yaml(data)
        return split_files(_read_yaml(file), file, "train")
    if data.suffix == ".json":
        found = coco_images(data, folder or _beside(data))
        return [image.file for image in found.images]
    raise _no_form("--calib", data, "nothing there")


def _no_form(option: str, data: Path, missing: str) -> TaskError:
    """Return the error for data in none of the forms.

    missing: words for a path that does not exist.
    """
    got = "another kind of file" if data.exists() else missing
    return TaskError(f"Expected {option} to be {FORMS}, got {data}: {got}.")


def names_in(data: Path) -> tuple[str, ...]:
    """Return the class names in a data YAML; empty if it has none. Raises TaskError if it cannot be
    read."""
    file = _find_yaml(data)
    return _names_of(_read_yaml(file).get("names"), file)


def measured_split(data: Path) -> str:
    """Return the part of a data YAML that is measured by default: "val", or "test" if there is only
    that."""
    if data.suffix not in YAML:
        return "val"
    content = _read_yaml(_find_yaml(data))
    has_test_alone = content.get("test") and not content.get("val")
    return "test" if has_test_alone else "val"


def train_apart(data: Path, measured: Collection[Path]) -> bool:
    """Return whether this is a data YAML whose train part exists and holds none of these images."""
    if not has_train_images(data):
        return False
    return set(measured).isdisjoint(calibration_files(data))


def has_train_images(data: Path) -> bool:
    """Return whether this is a data YAML whose train part exists."""
    if data.suffix not in YAML:
        return False
    try:
        return bool(calibration_files(data))
    except TaskError:
        return False


def yaml_for_validator(
    path: Path, images: Mapping[str, Sequence[LabelledImage]], names: Sequence[str]
) -> Path:
    """Write a data set that ultralytics can read below `path`, and return its YAML file.

    It has a list of images for each split. Images are links in `images`, and their labels are text
    files in `labels`, where ultralytics looks for them. Crowds are left out.

    images: name of a split -> its images.
    names: the class names.
    """
    for kind in ("images", "labels"):
        (path / kind).mkdir(parents=True, exist_ok=True)
    for split, images_of_split in images.items():
        links = []
        for number, image in enumerate(images_of_split):
            name = f"{split}-{number:06d}"
            links.append(str(_linked(image, path / "images" / name)))
            (path / "labels" / f"{name}.txt").write_text(_label_text(image))
        (path / f"{split}.txt").write_text("\n".join(links))
    file = path / "data.yaml"
    file.write_text(_yaml_text(path.resolve(), list(images), names))
    return file


def _linked(image: LabelledImage, path: Path) -> Path:
    """Link the image at this path, with the suffix of the image added, and return the link."""
    link = path.with_name(f"{path.name}{image.file.suffix.lower()}")
    if not link.exists():
        link.symlink_to(image.file.resolve())
    return link


def _label_text(image: LabelledImage) -> str:
    """Return the labels of an image in YOLO's form: a line for each object, with its class, centre
    and size in fractions of the image."""
    width, height = image.size or image_size(image.file)
    rows = []
    objects = zip(image.boxes, image.classes, image.crowd, strict=True)
    for (x1, y1, x2, y2), label, is_crowd in objects:
        if is_crowd:
            continue
        centre = f"{(x1 + x2) / 2 / width:.8f} {(y1 + y2) / 2 / height:.8f}"
        size = f"{(x2 - x1) / width:.8f} {(y2 - y1) / height:.8f}"
        rows.append(f"{label} {centre} {size}")
    return "\n".join(rows)


def _yaml_text(path: Path, splits: Sequence[str], names: Sequence[str]) -> str:
    """Return the data YAML of a data set in this folder, with a list of images for each split."""
    # ultralytics requires train and val, whichever part is read, and finds the lists of other parts
    # by their full path only.
    parts = {"train": splits[0], "val": splits[0]} | dict(zip(splits, splits, strict=True))
    lists = "\n".join(f"{part}: {path / split}.txt" for part, split in parts.items())
    listed = "\n".join(f"  {number}: {name!r}" for number, name in enumerate(names))
    return f"path: {path}\n{lists}\nnames:\n{listed}\n"


def holds_labels(folder: Path) -> bool:
    """Return whether a folder holds images with YOLO text files at the places where they are looked
    for."""
    parts = (folder / "images", folder / "labels")
    if all(map(Path.is_dir, parts)):
        return True
    return any(map(Path.is_file, _label_files(image_files(folder)[:FIRST])))


def _label_files(images: Sequence[Path]) -> list[Path]:
    """Return where ultralytics looks for the labels of these images."""
    return [label_file(image.absolute()) for image in images]


def _of_folder(data: Path, names: Sequence[str], split: str, form: LabelForm) -> LabelledImages:
    """Return the images of a folder. If the folder has a part for this split, only that part is
    read."""
    images, labels = data / "images", data / "labels"
    of_split = (images / split, labels / split)
    if all(map(Path.is_dir, of_split)):
        return yolo_images(*of_split, names, form)
    if images.is_dir():
        return yolo_images(images, labels, names, form)
    files = image_files(data)
    texts = _label_files(files)
    if not any(map(Path.is_file, texts)):
        return yolo_images(data, data, names, form)
    return LabelledImages(labelled_files(files, texts, len(names), form), tuple(names))


def _from_yaml(data: Path, names: Sequence[str], split: str, form: LabelForm) -> LabelledImages:
    """Return the images of one split of a data YAML."""
    file = _find_yaml(data)
    content = _read_yaml(file)
    own = _names_of(content.get("names"), file)
    declared = own or range(int(content.get("nc") or len(names)))
    _check_classes(declared, names, file)
    files = split_files(content, file, split)
    labels = list(map(label_file, files))
    images = labelled_files(files, labels, len(names), form)
    return LabelledImages(images, own or tuple(names), _sigmas_of(content, file, form))


def _sigmas_of(content: Mapping[str, Any], file: Path, form: LabelForm) -> tuple[float, ...]:
    """Return the spreads of key points in a data YAML, which ultralytics' validator reads, too.
    They are empty if it has none, or if no key points are wanted."""
    declared = content.get("kpt_oks_sigmas")
    if form.kind != "keypoints" or not declared:
        return ()
    sigmas = np.ravel(declared)
    is_numbers = np.issubdtype(sigmas.dtype, np.number)
    if not is_numbers or len(sigmas) != form.points or not np.all(sigmas > 0):
        raise TaskError(
            f"Expected kpt_oks_sigmas in {file} to be {form.points} positive numbers, one for each "
            f"key point of the model, got {begun(list(map(str, sigmas)))} ({len(sigmas)}); correct "
            "it, or remove it for the defaults."
        )
    return tuple(map(float, sigmas))


def _names_of(declared: Any, file: Path) -> tuple[str, ...]:
    """Return the class names of a data YAML, empty if it has none.

    declared: a list of names, or number -> name in any order.
    """
    if not isinstance(declared, Mapping):
        return tuple(map(str, declared or ()))
    for number in declared:
        if not str(number).isdecimal():
            raise TaskError(
                f"Expected names in {file} as a list, or a name for each class number, got "
                f"{number!r}."
            )
    numbers = sorted(declared, key=int)
    return tuple(str(declared[number]) for number in numbers)


def split_files(content: Mapping[str, Any], file: Path, split: str) -> list[Path]:
    """Return the image files that a data YAML lists for a split. Raises TaskError if a folder or a
    list is missing."""
    entries = content.get(split)
    if not entries:
        parts = ", ".join(filter(content.get, ("train", "val", "test")))
        raise TaskError(
            f"Expected {file} to name the images of {split!r}, got {parts or 'no part'} only."
        )
    root = str(content.get("path") or "")
    files: list[Path] = []
    for entry in _in_list(entries):
        place = _place(root, str(entry), file, split)
        files += image_files(place) if place.is_dir() else _listed(place)
    if not files:
        raise TaskError(f"Expected images for {split!r} of {file}, got none in {entries}.")
    return files


def _in_list(entries: str | Sequence[Any]) -> Sequence[Any]:
    """Return the entries of a data YAML, which may hold a single entry in place of a list."""
    if isinstance(entries, str):
        return [entries]
    return entries


def label_file(image: Path) -> Path:
    """Return the file in which ultralytics looks for the labels of an image. The last `images` of
    the path is replaced by `labels`.

    >>> label_file(Path("/data/images/val/7.jpg")).as_posix()
    '/data/labels/val/7.txt'
    """
    before, separator, after = image.as_posix().rpartition("/images/")
    if separator:
        image = Path(f"{before}/labels/{after}")
    return image.with_suffix(".txt")


def _place(root: str, entry: str, file: Path, split: str) -> Path:
    """Return the folder or list that an entry means.

    A relative `path` is looked for beside the YAML file, then in the current folder, and then in
    its folder `datasets`. ultralytics looks for it in its own folder of data sets.
    """
    folders = [file.parent, Path.cwd(), Path.cwd() / "datasets"]
    # Roboflow writes one `../` too many, and ultralytics reads past it.
    entries = dict.fromkeys([entry, entry.removeprefix("../")])
    tried = [folder / root / name for name, folder in product(entries, folders)]
    found: Path | None = next(filter(Path.exists, tried), None)
    if found is None:
        raise TaskError(
            f"Expected the images of {split!r} in {file} to be at {tried[0].resolve()}, got "
            "nothing there; correct `path` in it. Nothing is downloaded."
        )
    return found.resolve()


def _listed(place: Path) -> list[Path]:
    """Return the image files that a text file lists, one a line."""
    lines = filter(None, map(str.strip, place.read_text().splitlines()))
    files = [place.parent / line for line in lines]  # An absolute path stays as it is.
    missing = list(filterfalse(Path.is_file, files))
    if missing:
        raise TaskError(
            f"Expected the {len(files)} images listed in {place}, got {len(missing)} missing, "
            f"first {missing[0]}."
        )
    return files


def _find_yaml(data: Path) -> Path:
    """Return the given file. If it does not exist and only a name is given, it is the file of that
    name that comes with ultralytics."""
    candidates = [data]
    package = find_spec("ultralytics") if data.parent == Path() else None
    if package is not None and package.origin is not None:
        candidates.append(Path(package.origin).parent / "cfg" / "datasets" / data.name)
    found = next(filter(Path.is_file, candidates), None)
    if found is None:
        raise TaskError(f"Expected a data YAML at {data}, got nothing there (from {Path.cwd()}).")
    return found


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise MissingPackage("pyyaml", "reading a data YAML", "yolo") from None
    try:
        content = yaml.safe_load(file.read_text(errors="replace"))
    except yaml.YAMLError as error:
        raise TaskError(f"Expected YAML in {file}, got: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise TaskError(
            f"Expected {file} to hold path, train, val and names, got {type(content).__name__}."
        )
    return content


def _beside(annotations: Path) -> Path:
    return annotations.parent / "images"


def _check_classes(own: Sequence[Any], names: Sequence[str], data: Path) -> None:
    if len(own) != len(names):
        shown = begun(list(map(str, own)))
        raise TaskError(
            f"Expected {data} to have the {len(names)} classes of the model, got {len(own)} "
            f"({shown}); use the data that the model was trained for."
        )
