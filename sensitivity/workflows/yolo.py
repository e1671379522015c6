"""A YOLO of the ultralytics package: from a weights file and labelled images to a run directory.

    settings = YoloSettings(weights=Path("yolov8n.pt"), data=Path("coco.yaml"), max_drop="0.3pt")
    api.run(prepare(settings))

A task file lies in the run directory afterwards, so every verb works on it alone and it can be
changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from functools import partial
from itertools import chain
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


def prepare(settings: YoloSettings) -> RunSettings:
    """Write the task file into the run directory, and return the settings of the run of it.

    With `resume` a task file that is there is kept as it is. Raises RunDirError where the folder
    holds another run, WriteError where it cannot be written.
    """
    out = settings.out or Path("runs") / settings.weights.stem
    refuse_used(RunDir(out).journal, settings.resume)
    file = out / "task.py"
    if not (settings.resume and file.exists()):
        with locked(out):
            write_whole(file, task_file(settings).encode())
    # what the task file holds, whatever it is called elsewhere
    mine = {field.name for field in fields(YoloChoices)}
    shared = [
        field.name
        for field in fields(RunSettings)
        if field.name not in mine and hasattr(settings, field.name)
    ]
    own = {name: getattr(settings, name) for name in shared}
    return RunSettings(**own | {"task": f"{file}:task", "out": out})


def task_file(choices: YoloChoices) -> str:
    """The text of a task file with these choices; those that are as by default are left out, paths
    are absolute."""
    lines = []
    for field in fields(YoloChoices):
        value = getattr(choices, field.name)
        if field.default is MISSING or value != field.default or field.name == "imgsz":
            shown = str(_absolute(value)) if isinstance(value, Path) else value
            lines.append(f"        {field.name}={shown!r},")
    return TASK_FILE.format(
        name=choices.weights.name, data=choices.data.name, arguments="\n".join(lines)
    )


def task(weights: str | Path, data: str | Path, **choices: Any) -> Task | EvaluateTask:
    """The task of a weights file on labelled images. choices: the other fields of `YoloChoices`.

    Raises MissingPackage, and TaskError for weights or data that cannot be used.
    """
    paths = {
        name: Path(choices[name])
        for name in ("image_folder", "calib")
        if choices.get(name) is not None
    }
    settings = YoloChoices(**{"weights": Path(weights), "data": Path(data)} | choices | paths)
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
    part, form = reported_part(yolo, settings), label_form(yolo)
    found = labelled(
        settings.data, yolo.names, split=settings.split, folder=settings.image_folder, form=form
    )
    splits, calib = splits_of(found.images, settings)
    decode = _decode(yolo, settings)
    batches = ImageBatches(calib, settings.imgsz, settings.batch, stretched=yolo.is_rtdetr)
    model = quantized(
        yolo.model,
        (inputs for inputs, _ in batches),
        method=settings.calib_method,
        dfl=settings.quantize_dfl,
    )
    rule = Suppression(iou=NO_SUPPRESSION) if yolo.chooses else Suppression()
    names, size, batch = found.names, settings.imgsz, settings.batch
    if settings.evaluator == "ultralytics":
        return validator_task(model, yolo, splits, settings)
    if yolo.kind == "obb":
        found_task = _rotated_task(model, splits, yolo, settings)
    else:
        found_task = detection_task(
            model, splits, names, size=size, batch=batch, decode=decode, rule=rule, part=part,
            stretched=yolo.is_rtdetr,
        )  # fmt: skip
    if yolo.chooses and settings.output == "decoded":
        return replace(found_task, finish=partial(with_best_boxes, classes=len(names)))
    return found_task


def _rotated_task(
    model: Any,
    splits: Mapping[str, Sequence[LabelledImage]],
    yolo: Yolo,
    settings: YoloChoices,
) -> Task:
    """Of a model of rotated boxes."""
    decode = partial(decode_rotated, classes=len(yolo.names))
    rule = rotated_rule(chain.from_iterable(splits.values()), suppress=not yolo.end2end)
    score = RotatedScore(yolo.names, decode, rule)
    data = {
        name: ImageBatches(images, settings.imgsz, settings.batch, Corners())
        for name, images in splits.items()
    }
    return Task(model, data, score, score.aggregate, metric=score.metric)


def reported_part(yolo: Yolo, settings: YoloChoices) -> Part | None:
    """What the model gives with each box, which is judged too."""
    classes = len(yolo.names)
    if yolo.kind == "segment":
        return Masks(classes, settings.imgsz)
    if yolo.kind == "pose":
        points, numbers = yolo.head.kpt_shape
        return KeyPoints(classes, points, numbers, usual_sigmas(points, numbers))
    return None


def label_form(yolo: Yolo) -> LabelForm:
    """What is wanted of the labels."""
    if yolo.kind == "segment":
        return LabelForm("outlines")
    if yolo.kind == "pose":
        return LabelForm("keypoints", *yolo.head.kpt_shape)
    if yolo.kind == "obb":
        return LabelForm("corners")
    return LabelForm()


def _decode(yolo: Yolo, settings: YoloChoices) -> Decode:
    """What the outputs of the model mean; with --output raw the model is changed to give those."""
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
    """Images for "rank", "confirm" and "holdout", and those to calibrate with."""
    images = _drawn(images, settings.limit)
    source = settings.calib or (settings.data if has_train_images(settings.data) else None)
    least = round(1 / min((SET_ASIDE if source is None else SIZES).values()))
    if len(images) < least:
        raise TaskError(
            f"Expected at least {least} images for calib, rank, confirm and holdout, got "
            f"{len(images)}; give more with --data, or a higher --limit."
        )
    if source is None:
        parts = random_splits(images, sizes=SET_ASIDE)
        return parts, list(parts.pop("calib"))[: settings.calib_images]
    files = calibration_files(source)
    order = generator().permutation(len(files))[: settings.calib_images]
    return random_splits(images, sizes=SIZES), [unlabelled(files[at]) for at in sorted(order)]


def _drawn(images: Sequence[LabelledImage], limit: int | None) -> tuple[LabelledImage, ...]:
    """At most `limit` of the images, drawn at random, in their order."""
    if limit is None or limit >= len(images):
        return tuple(images)
    return tuple(images[at] for at in sorted(random_parts(len(images), {"drawn": limit})["drawn"]))


def _classifier(yolo: Yolo, settings: YoloChoices) -> Task:
    """Top-1 on a folder with one folder per class, prepared as ultralytics does it."""
    if not settings.data.is_dir():
        raise TaskError(
            f"Expected --data to be a folder with one folder per class, got {settings.data}."
        )
    root = (
        settings.data / settings.split
        if (settings.data / settings.split).is_dir()
        else settings.data
    )
    transform = centre_crop(
        settings.imgsz, resize=settings.imgsz, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    splits = from_folder(root, transform=transform, batch=settings.batch)
    some = -(-settings.calib_images // settings.batch)
    inputs = (inputs for number, (inputs, _) in enumerate(splits.pop("calib")) if number < some)
    model = quantized(yolo.model, inputs, method=settings.calib_method)
    return classification_task(model, splits)


def _absolute(path: Path) -> Path:
    """Absolute, except for the bare name of a data set that comes with ultralytics."""
    return path.resolve() if path.exists() or path.parent != Path() else path
