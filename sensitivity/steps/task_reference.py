"""The reference of the task that a command measures; ONNX and .tflite files get a task file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from sensitivity.config import (
    OF_ONNX,
    QUANTIZING,
    TFLITE,
    TaskChoices,
    is_model_file,
    refuse_needless,
)
from sensitivity.errors import TaskError
from sensitivity.measure.progress import Progress, silent
from sensitivity.steps import lazy

Choices = TypeVar("Choices", bound=TaskChoices)


def task_reference(settings: TaskChoices, out: Path, progress: Progress = silent) -> str:
    """Return the reference of the task: as given, or of the task file written into the run
    directory for an ONNX or a .tflite file.

    progress: is told how far the calibration of a float file is.
    Raises TaskError for a model that does not exist or has no data.
    """
    if not is_model_file(settings.task):
        refuse_needless(settings, OF_ONNX, "a task that is no ONNX file")
        return settings.task
    file = Path(settings.task)
    if not file.is_file():
        raise TaskError(f"Expected a model at {file}, got no such file (from {Path.cwd()}).")
    lazy.onnx_reading.data_of(settings)  # raises if there is none
    settings = converted_to_onnx(settings, out)
    if lazy.quantize_prepare.is_float(Path(settings.task)):
        made = lazy.quantize_file.quantized_file(settings, out, progress)
        return lazy.task_file.written_task(settings, out, made)
    refuse_needless(settings, QUANTIZING, "a Q/DQ file, which is calibrated already")
    return lazy.task_file.written_task(settings, out)


def converted_to_onnx(settings: Choices, out: Path) -> Choices:
    """Return the settings with .tflite files replaced by their ONNX versions, written into the run
    directory."""
    file, float_model, folder = Path(settings.task), settings.float_model, out / "tflite"
    if file.suffix == TFLITE:
        settings = replace(settings, task=str(lazy.tflite.onnx_file(file, folder)))
    if float_model is not None and float_model.suffix == TFLITE:
        made = lazy.tflite.onnx_file(float_model, folder / "float")
        settings = replace(settings, float_model=made)
    return settings
