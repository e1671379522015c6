"""Turns a weights file of the ultralytics package and labelled images into a run directory.

    settings = YoloSettings(weights=Path("yolov8n.pt"), data=Path("coco.yaml"), max_drop="0.3pt")
    api.run(prepare(settings))

The run directory then holds a task file, which can be changed, and every verb works on the
directory alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sensitivity.config import ImageSize, RunSettings, YoloChoices, YoloSettings, flag_of
from sensitivity.errors import TaskError
from sensitivity.files import write_whole
from sensitivity.journal.journal import refuse_used
from sensitivity.lock import locked
from sensitivity.run_dir import RunDir
from sensitivity.seeds import generator
from sensitivity.tasks.base import EvaluateTask, Task
from sensitivity.tasks.classification import classification_task, from_folder, random_parts
from sensitivity.tasks.detection import SIZES, Decode, ImageBatches, detection_task, random_splits
from sensitivity.tasks.detection_boxes import (
    Suppression,
    decode_bins,
    decode_corners,
    decode_shares,
    decode_ultralytics,
)
from sensitivity.tasks.detection_keypoints import KeyPoints, usual_sigmas
from sensitivity.tasks.detection_labels import LabelForm, LabelledImage, unlabelled
from sensitivity.tasks.detection_masks import Masks
from sensitivity.tasks.detection_parts import Part
from sensitivity.tasks.detection_rotated import (
    Corners,
    RotatedScore,
    decode_rotated,
    rotated_rule,
)
from sensitivity.tasks.images import centre_crop, shown_size, sides
from sensitivity.tasks.yolo_data import (
    calibration_files,
    has_train_images,
    labelled,
)
from sensitivity.workflows.yolo_end2end import with_best_boxes
from sensitivity.workflows.yolo_quantize import quantized
from sensitivity.workflows.yolo_validator import validator_task
from sensitivity.workflows.yolo_weights import Yolo, give_raw, load_yolo

SET_ASIDE: Mapping[str, float] = {"calib": 0.2, "rank": 0.2, "confirm": 0.4, "holdout": 0.2}
"""Share of the images in each split, where no other images are given for calibration."""

NO_SUPPRESSION = 1.0
"""An overlap that no two boxes exceed."""

TASK_FILE = '''\
"""{name}, quantized by ModelOpt and judged on {data}.

Written by `sensitivity yolo run`. Change it to see what happens: a task that measures
something else needs a run directory of its own.
"""

from sensitivity.workflows import yolo


def task():
    return yolo.task(
{arguments}
    )
'''


def prepare(settings: YoloSettings, folder: Path | None = None) -> RunSettings:
    """Write the task file into the run directory, and return the settings to run it with.

    With `resume`, an existing task file is kept as it is. Raises RunDirError if the run directory
    holds another run, and WriteError if the file cannot be written.

    folder: another folder for a new task file, so that nothing is written into the run directory.
    """
    out = settings.out or Path("runs") / settings.weights.stem
    refuse_used(RunDir(out).journal, settings.resume)
    file = out / "task.py"
    if not (settings.resume and file.exists()):
        file = (folder or out) / "task.py"
        with locked(file.parent):
            write_whole(file, task_file(settings).encode())
    # The task file holds the fields of `YoloChoices`, so they are not settings of the run, even
    # where `RunSettings` has a field of the same name.
    in_task_file = {field.name for field in fields(YoloChoices)}
    names = [field.name for field in fields(RunSettings) if field.name not in in_task_file]
    shared = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
    return RunSettings(**shared | {"task": f"{file}:task", "out": out})


def task_file(choices: YoloChoices) -> str:
    """Return the text of a task file with these choices. Choices that have their default are left
    out, and paths are made absolute."""
    lines = []
    for field in fields(YoloChoices):
        value = getattr(choices, field.name)
        is_written = field.default is MISSING or value != field.default or field.name == "imgsz"
        if is_written:
            shown = str(_absolute(value)) if isinstance(value, Path) else value
            lines.append(f"        {field.name}={shown!r},")
    return TASK_FILE.format(
        name=choices.weights.name, data=choices.data.name, arguments="\n".join(lines)
    )


def task(weights: str | Path, data: str | Path, **choices: Any) -> Task | EvaluateTask:
    """Return the task of a weights file on labelled images.

    weights: a weights file of ultralytics, ending in .pt.
    data: a data YAML, COCO JSON, or a folder of labelled images.
    choices: the other fields of `YoloChoices`.
    Raises MissingPackage, and TaskError for weights or data that cannot be used.
    """
    paths = {"weights": Path(weights), "data": Path(data)}
    for name in ("image_folder", "calib"):
        if choices.get(name) is not None:
            paths[name] = Path(choices[name])
    settings = YoloChoices(**choices | paths)
    for name in ("batch", "limit", "calib_images"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise TaskError(f"Expected {flag_of(name)} to be at least 1, got {value}.")
    yolo = load_yolo(settings.weights, end2end=settings.end2end, trust=settings.trust_weights)
    _check_size(settings.imgsz, yolo.stride, settings.weights.name)
    if yolo.kind == "classify":
        return _classifier(yolo, settings)
    return _detector(yolo, settings)


def _check_size(size: ImageSize, stride: int, name: str) -> None:
    if any(side < stride or side % stride for side in sides(size)):
        height, width = (max(round(side / stride), 1) * stride for side in sides(size))
        raise TaskError(
            f"Expected --imgsz to be a multiple of {stride}, the coarsest step of {name}, got "
            f"{shown_size(size)}; use {shown_size((height, width))}."
        )


def _detector(yolo: Yolo, settings: YoloChoices) -> Task | EvaluateTask:
    data_set = labelled(
        settings.data,
        yolo.names,
        split=settings.split,
        folder=settings.image_folder,
        form=label_form(yolo),
    )
    part = reported_part(yolo, settings, data_set.sigmas)
    splits, calib = splits_of(data_set.images, settings)
    decode = _decode(yolo, settings)
    batches = ImageBatches(calib, settings.imgsz, settings.batch, stretched=yolo.is_rtdetr)
    model = quantized(
        yolo.model,
        (inputs for inputs, _ in batches),
        method=settings.calib_method,
        dfl=settings.quantize_dfl,
    )
    if settings.evaluator == "ultralytics":
        return validator_task(model, yolo, splits, settings)
    names = data_set.names
    if yolo.kind == "obb":
        detector = _rotated_task(model, splits, yolo, settings)
    else:
        detector = detection_task(
            model,
            splits,
            names,
            size=settings.imgsz,
            batch=settings.batch,
            decode=decode,
            rule=Suppression(iou=NO_SUPPRESSION) if yolo.chooses else Suppression(),
            part=part,
            stretched=yolo.is_rtdetr,
        )
    if yolo.chooses and settings.output == "decoded":
        return replace(detector, finish=partial(with_best_boxes, classes=len(names)))
    return detector


def _rotated_task(
    model: Any,
    splits: Mapping[str, Sequence[LabelledImage]],
    yolo: Yolo,
    settings: YoloChoices,
) -> Task:
    """Return the task of a model that detects rotated boxes."""
    decode = partial(decode_rotated, classes=len(yolo.names))
    rule = rotated_rule(chain.from_iterable(splits.values()), suppress=not yolo.end2end)
    score = RotatedScore(yolo.names, decode, rule)
    data = {
        name: ImageBatches(images, settings.imgsz, settings.batch, Corners())
        for name, images in splits.items()
    }
    return Task(model, data, score, score.aggregate, metric=score.metric)


def reported_part(yolo: Yolo, settings: YoloChoices, sigmas: tuple[float, ...]) -> Part | None:
    """Return the masks or key points that the model gives with each box; None if it gives boxes
    alone.

    sigmas: those of the data set's key points; empty for the usual ones.
    """
    classes = len(yolo.names)
    if yolo.kind == "segment":
        return Masks(classes, settings.imgsz)
    if yolo.kind == "pose":
        points, numbers = yolo.head.kpt_shape
        return KeyPoints(classes, points, numbers, sigmas or usual_sigmas(points, numbers))
    return None


def label_form(yolo: Yolo) -> LabelForm:
    """Return what to read from the labels for a model of this kind."""
    if yolo.kind == "segment":
        return LabelForm("outlines")
    if yolo.kind == "pose":
        return LabelForm("keypoints", *yolo.head.kpt_shape)
    if yolo.kind == "obb":
        return LabelForm("corners")
    return LabelForm()


def _decode(yolo: Yolo, settings: YoloChoices) -> Decode:
    """Return the function that turns the model's outputs into boxes and confidences. With --output
    raw, the model is changed to give raw outputs."""
    if settings.output == "raw":
        give_raw(yolo)
        strides = tuple(int(step) for step in yolo.head.stride)
        return partial(decode_bins, size=settings.imgsz, strides=strides)
    if yolo.is_rtdetr:
        return partial(decode_shares, size=settings.imgsz, classes=len(yolo.names))
    if yolo.end2end:
        return partial(decode_corners, classes=len(yolo.names))
    return partial(decode_ultralytics, classes=len(yolo.names))


def splits_of(
    images: Sequence[LabelledImage], settings: YoloChoices
) -> tuple[dict[str, tuple[LabelledImage, ...]], list[LabelledImage]]:
    """Return the images of "rank", "confirm" and "holdout", and the images to calibrate with.

    Calibration uses the images that the settings name, or else the train part of a data YAML. Where
    there are neither, a share of `images` is set aside for it.
    """
    images = _drawn(images, settings.limit)
    source = settings.calib
    if source is None and has_train_images(settings.data):
        source = settings.data
    sizes = SET_ASIDE if source is None else SIZES
    least = round(1 / min(sizes.values()))
    if len(images) < least:
        raise TaskError(
            f"Expected at least {least} images for calib, rank, confirm and holdout, got "
            f"{len(images)}; give more with --data, or a higher --limit."
        )
    if source is None:
        splits = random_splits(images, sizes=SET_ASIDE)
        return splits, list(splits.pop("calib"))[: settings.calib_images]
    files = calibration_files(source)
    drawn = generator().permutation(len(files))[: settings.calib_images]
    calib = [unlabelled(files[number]) for number in sorted(drawn)]
    return random_splits(images, sizes=SIZES), calib


def _drawn(images: Sequence[LabelledImage], limit: int | None) -> tuple[LabelledImage, ...]:
    """Return at most `limit` of the images, drawn at random, in their order. None draws all of
    them."""
    if limit is None or limit >= len(images):
        return tuple(images)
    drawn = random_parts(len(images), {"drawn": limit})["drawn"]
    return tuple(images[number] for number in sorted(drawn))


def _classifier(yolo: Yolo, settings: YoloChoices) -> Task:
    """Return the task of a classifier on a folder with one folder per class, whose images are
    prepared as by ultralytics. Its metric is top-1."""
    root = settings.data
    if not root.is_dir():
        raise TaskError(f"Expected --data to be a folder with one folder per class, got {root}.")
    if (root / settings.split).is_dir():
        root = root / settings.split
    transform = centre_crop(
        settings.imgsz, resize=settings.imgsz, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    splits = from_folder(root, transform=transform, batch=settings.batch)
    calib_batches = -(-settings.calib_images // settings.batch)
    inputs = (inputs for inputs, _ in islice(splits.pop("calib"), calib_batches))
    model = quantized(yolo.model, inputs, method=settings.calib_method)
    return classification_task(model, splits)


def _absolute(path: Path) -> Path:
    """Return the absolute path. The bare name of a data set that comes with ultralytics stays as it
    is."""
    is_bare_name = path.parent == Path() and not path.exists()
    if is_bare_name:
        return path
    return path.resolve()
