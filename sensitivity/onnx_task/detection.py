"""Tasks of ONNX files that detect objects."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from sensitivity.config import DecodeName
from sensitivity.errors import TaskError
from sensitivity.onnx_task.inputs import File, ImageInput, image_input
from sensitivity.onnx_task.reading import Reading, calibration_images
from sensitivity.records import names_of
from sensitivity.tasks import onnx_data, onnx_decode
from sensitivity.tasks.base import Task
from sensitivity.tasks.detection import SIZES, DetectionScore, random_splits
from sensitivity.tasks.detection_labels import LabelledImage, LabelledImages, unlabelled
from sensitivity.tasks.detection_parts import MoreTruth
from sensitivity.tasks.detection_rotated import (
    Corners,
    RotatedScore,
    decode_rotated,
    rotated_rule,
)
from sensitivity.tasks.onnx_metadata import Exported
from sensitivity.tasks.onnx_pixels import SAY_OTHERWISE, Pixels, pixels_in_words

BATCH = 8


def detection_task(
    model: File, labels: LabelledImages, reading: Reading, exported: Exported
) -> Task:
    """Return the task of a detector on images with labelled boxes.

    Raises TaskError if its outputs are of no known form.
    """
    image = image_input(model, reading.size)
    form = _form_of(model, image, labels, reading, exported)
    pixels = _pixels(form, image, reading)
    meaning = onnx_decode.meaning(form, image.size, labels, names_of(model.get_outputs()))
    words = _reading_in_words(model, form, pixels, reading, exported)
    score, more = DetectionScore(labels.names, meaning, meaning.rule, words), None
    if reading.evaluator is None:
        score, more = _with_more(score, exported, labels, chosen=form == "end2end")
    size = 1 if meaning.selects else BATCH  # a batch needs equally many boxes
    stretched = form in onnx_decode.STRETCHED
    batches = {
        split: onnx_data.DetectionBatches(
            part, image.size, size, more, pixels=pixels, stretched=stretched
        )
        for split, part in _splits(labels, reading).items()
    }
    return Task(model, batches, score, score.aggregate, metric=score.metric, soft=score.soft)


def _form_of(
    model: File, image: ImageInput, labels: LabelledImages, reading: Reading, exported: Exported
) -> DecodeName:
    """Return the form of the model's outputs: as the user or the file says, else by their names or
    shapes.

    Raises TaskError if none of these tells.
    """
    outputs = model.get_outputs()
    if reading.decode is not None:
        return reading.decode
    if exported.is_rtdetr:
        return "rtdetr"
    by_name = onnx_decode.decode_of_names(names_of(outputs))
    if by_name is not None:
        return by_name
    if reading.evaluator is not None:
        return "yolo"  # whose pixels are usual; the evaluator decodes the outputs itself
    shapes = [list(output.shape) for output in outputs]
    decode_name = partial(
        onnx_decode.decode_name,
        size=image.size,
        classes=len(labels.names),
        more=exported.has_more,
    )
    try:
        return decode_name(shapes)
    except TaskError:
        if all(isinstance(side, int) for _, *shape in shapes for side in shape):
            raise
    return decode_name(_computed_shapes(model, image))


def _computed_shapes(model: File, image: ImageInput) -> list[list[int]]:
    """Return the shapes of what the model computes from one black image, since exporters leave
    sides open that have one length only."""
    (taken,) = model.get_inputs()
    sides = (3, *image.size) if image.layout == "nchw" else (*image.size, 3)
    samples = taken.shape[0] if isinstance(taken.shape[0], int) else 1
    outputs = model.run(None, {taken.name: np.zeros((samples, *sides), image.dtype)})
    return [list(output.shape) for output in outputs]


def _pixels(form: DecodeName, image: ImageInput, reading: Reading) -> Pixels:
    """Return the pixels that the model is given."""
    usual = onnx_decode.PIXELS[form]
    colours = reading.pixels.colours or usual.colours
    scale = reading.pixels.scale(image.stored or usual.scale, image.dtype)
    return Pixels(colours, scale, image.layout, image.dtype)


def _reading_in_words(
    model: File, form: DecodeName, pixels: Pixels, reading: Reading, exported: Exported
) -> str:
    """Return sentences on how outputs and pixels were read, for a model that is no better than
    chance."""
    words = [pixels_in_words(pixels.colours, pixels.scale), SAY_OTHERWISE]
    is_recognised = reading.decode is None and not exported.task
    if is_recognised:
        words.insert(0, onnx_decode.reading(form, [out.shape for out in model.get_outputs()]))
    return " ".join(words)


def _with_more(
    score: DetectionScore, exported: Exported, labels: LabelledImages, *, chosen: bool
) -> tuple[DetectionScore, MoreTruth | None]:
    """Return the score for all outputs of an ultralytics file, and the truth it needs besides
    boxes.

    chosen: whether the file selects its boxes itself.
    """
    if exported.task == "obb":
        decode = partial(decode_rotated, classes=len(labels.names), chosen=chosen)
        rule = rotated_rule(labels.images, suppress=not chosen)
        return RotatedScore(labels.names, decode, rule, score.reading), Corners()
    assert isinstance(score.decode, onnx_decode.Decode)
    part = exported.part(score.decode.size, labels.sigmas, chosen=chosen)
    return replace(score, part=part), part


def _splits(labels: LabelledImages, reading: Reading) -> dict[str, tuple[LabelledImage, ...]]:
    """Return the images of each split."""
    sizes = onnx_data.sizes_of(len(labels.images), reading.set_aside, SIZES)
    splits = random_splits(labels.images, sizes=sizes)
    files = calibration_images(reading)
    if files:
        splits["calib"] = tuple(unlabelled(file) for file in files)
    return splits
