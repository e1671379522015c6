"""How an ONNX file and its data are read: what the user says, and what follows by default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sensitivity.config import DecodeName, TaskChoices
from sensitivity.errors import TaskError
from sensitivity.onnx_task.inputs import File
from sensitivity.tasks import onnx_data
from sensitivity.tasks.images import Size
from sensitivity.tasks.load import Evaluator, load_evaluator
from sensitivity.tasks.onnx_data import Calibration
from sensitivity.tasks.onnx_metadata import exported_by_ultralytics
from sensitivity.tasks.onnx_pixels import AS_USUAL, PixelChoices, channels

CALIBRATION_SAMPLES = 128
"""Number of calibration samples if the user gives none; at most a fifth of the data."""


@dataclass(frozen=True)
class Reading:
    """How a file takes images, what its outputs mean, and which samples calibrate it.

    decode, pixels: see `onnx_task`; what is None follows from the file.
    size: size of the images, for a file that leaves their sides open.
    images: folder of the COCO images; None if they are beside the annotations.
    calibration: None if the task has no split "calib".
    evaluator: the user's own metric, in place of the usual one for the data.
    """

    decode: DecodeName | None = None
    pixels: PixelChoices = AS_USUAL
    size: Size | None = None
    images: Path | None = None
    calibration: Calibration | None = None
    evaluator: Evaluator | None = None

    @property
    def set_aside(self) -> int:
        """Number of samples of the data that are in no split but "calib"."""
        return 0 if self.calibration is None else self.calibration.set_aside


def reading_of(settings: TaskChoices, calibration: Calibration) -> Reading:
    """Return what the settings say about how to read a file.

    Raises TaskError for an invalid mean or deviation.
    """
    mean, std = channels("--mean", settings.mean), channels("--std", settings.std)
    pixels = PixelChoices(settings.colours, settings.top, mean, std)
    return Reading(
        settings.decode,
        pixels,
        settings.imgsz,
        calibration=calibration,
        evaluator=None if settings.evaluator is None else load_evaluator(settings.evaluator),
    )


def size_of(settings: TaskChoices, model: File) -> Size | None:
    """Return the size of the images for a file that leaves their sides open.

    It is that of the settings, else that of the file's metadata. Returns None if neither has one.
    """
    return settings.imgsz or exported_by_ultralytics(model.metadata, model.path.name).size


def data_of(settings: TaskChoices) -> Path:
    """Return the data for an ONNX file.

    Raises TaskError if the settings name none.
    """
    if settings.data is None:
        raise TaskError(
            f"Expected --data with {settings.task}: COCO annotations, a data YAML, a folder with "
            "one folder of images per class, or an .npz with inputs x and labels y; or write a "
            "task file that names the ONNX file, see docs/onnx.md."
        )
    return settings.data


def calibration_images(reading: Reading) -> list[Path]:
    """Return calibration images that are not part of the data; empty if there are none."""
    calibration = reading.calibration
    if calibration is None or calibration.source is None:
        return []
    return onnx_data.calibration_images(calibration.source, calibration.samples)
