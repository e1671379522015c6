"""Tasks of ONNX files on arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sensitivity.errors import TaskError
from sensitivity.onnx_task.inputs import File, ports, sides_of
from sensitivity.onnx_task.reading import Reading
from sensitivity.onnx_task.unlabelled import agreement_task, no_labels
from sensitivity.tasks import onnx_arrays
from sensitivity.tasks.base import Task
from sensitivity.tasks.classification import Top1, answer_lost

BATCH = 50


def array_task(model: File, data: Path, reading: Reading) -> Task:
    """Return the task of a model on an .npz: classification, or agreement with the float model if
    it has inputs alone.

    Raises TaskError.
    """
    if reading.pixels.any:
        raise TaskError(
            f"Expected colours, top, mean and std with images, got one of them with {data}, whose "
            "arrays are taken as they are; leave it out."
        )
    x: onnx_arrays.Inputs
    y: onnx_arrays.Inputs
    inputs = ports(model)
    is_unlabelled = reading.evaluator is None and onnx_arrays.holds_only_inputs(data, inputs)
    if is_unlabelled:
        x = onnx_arrays.inputs_alone(data, inputs)
        y = np.zeros(onnx_arrays.count(x), np.int64)
    elif reading.evaluator is None:
        x, y = onnx_arrays.arrays(data, inputs, _classes(model))
    else:
        x, y = onnx_arrays.samples(data, inputs)
    splits: dict[str, Any] = dict(
        onnx_arrays.split_arrays(x, y, BATCH, set_aside=reading.set_aside)
    )
    calibration = _calibration(reading, inputs)
    if calibration is not None:
        splits["calib"] = calibration
    if is_unlabelled:
        return agreement_task(model, splits)
    return Task(model, splits, Top1(), metric="top-1", soft=answer_lost)


def _calibration(
    reading: Reading, inputs: list[onnx_arrays.Port]
) -> onnx_arrays.ArrayBatches | None:
    """Return the calibration samples that are not part of the data; None if there are none."""
    calibration = reading.calibration
    if calibration is None or calibration.source is None:
        return None
    x = onnx_arrays.calibration_inputs(calibration.source, inputs, calibration.samples)
    first = next(iter(x.values())) if isinstance(x, dict) else x
    return onnx_arrays.ArrayBatches(x, no_labels(first), BATCH)


def _classes(model: File) -> int | None:
    """Return the number of classes in the file's output; None if its shape does not say."""
    shape = sides_of(model.get_outputs()[0].shape)
    return shape[1] if len(shape) == 2 else None
