"""Tasks of ONNX files on images in folders, with a class each or without labels."""

from __future__ import annotations

from pathlib import Path

from sensitivity.errors import TaskError
from sensitivity.onnx_task.inputs import File, image_input
from sensitivity.onnx_task.reading import Reading, calibration_images
from sensitivity.onnx_task.unlabelled import agreement_task, no_labels
from sensitivity.tasks import onnx_data
from sensitivity.tasks.base import Batches, Task
from sensitivity.tasks.classification import Images, Top1, answer_lost
from sensitivity.tasks.images import image_files
from sensitivity.tasks.onnx_metadata import Exported
from sensitivity.tasks.onnx_pixels import (
    IMAGENET,
    RESIZE,
    SAY_OTHERWISE,
    ClassifierPixels,
    Scale,
    pixels_in_words,
)

BATCH = 50


def unlabelled_images_task(model: File, data: Path, reading: Reading, exported: Exported) -> Task:
    """Return the task of agreement with the float model on a folder of images.

    Raises TaskError.
    """
    if reading.evaluator is not None:
        raise TaskError(
            f"Expected labels in --data {data} for --evaluator to compare outputs with, got a "
            "folder of images alone; leave --evaluator out, and the float model's own outputs "
            "stand for them."
        )
    files = image_files(data)
    splits, _ = _image_splits(model, Images(files, no_labels(files)), reading, exported)
    return agreement_task(model, splits)


def folder_task(model: File, samples: Images, reading: Reading, exported: Exported) -> Task:
    """Return the task of classification on images with a class each.

    Raises TaskError.
    """
    splits, description = _image_splits(model, samples, reading, exported)
    score = Top1(samples.classes, f"{description} {SAY_OTHERWISE}")
    return Task(model, splits, score, metric="top-1", soft=answer_lost)


def _image_splits(
    model: File, samples: Images, reading: Reading, exported: Exported
) -> tuple[dict[str, Batches], str]:
    """Return the images by split, as the model takes them, and a sentence on their pixels."""
    image, choices = image_input(model, reading.size), reading.pixels
    colours = choices.colours or "rgb"
    # ultralytics classifies images without normalization, and scales the shorter side to the crop.
    usual, resize = (Scale(), 1.0) if exported.task else (IMAGENET.ordered(colours), RESIZE)
    scale = choices.scale(image.stored or usual, image.dtype)
    transform = ClassifierPixels(image.size, colours, scale, image.dtype, resize)
    splits = onnx_data.split_folders(
        samples, transform, image.layout, BATCH, set_aside=reading.set_aside
    )
    files = calibration_images(reading)
    if files:
        images = Images(files, no_labels(files))
        splits["calib"] = onnx_data.ImageBatches(images, transform, BATCH, layout=image.layout)
    return dict(splits), pixels_in_words(colours, scale)
