"""A task that is judged by ultralytics' own validator, which gives one number for each whole
evaluation."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sensitivity.config import YoloChoices
from sensitivity.errors import TaskError
from sensitivity.tasks.base import EvaluateTask
from sensitivity.tasks.detection import ImageBatches
from sensitivity.tasks.detection_labels import LabelledImage
from sensitivity.tasks.images import shown_size, sides
from sensitivity.tasks.yolo_data import yaml_for_validator
from sensitivity.workflows.yolo_weights import Yolo


def validator_task(
    model: Any, yolo: Yolo, splits: Mapping[str, Sequence[LabelledImage]], settings: YoloChoices
) -> EvaluateTask:
    """Return a task whose metric is mAP50-95 as `DetectionValidator` of ultralytics computes it,
    0..1.

    model: the quantized and calibrated model.
    yolo: the model that was loaded.
    splits: images for "rank", "confirm" and "holdout".
    Raises TaskError for a model that is not a plain detector, an output that the validator does not
    read, an input that is not square, or a torchvision that cannot be imported.
    """
    _check_readable(yolo, settings)
    side, width = sides(settings.imgsz)
    if side != width:
        raise TaskError(
            "Expected a square --imgsz for --evaluator ultralytics, which validates nothing else, "
            f"got {shown_size(settings.imgsz)}; leave --evaluator out."
        )
    _require_torchvision()
    folder = Path(tempfile.mkdtemp(prefix="sensitivity-yolo-"))
    data = yaml_for_validator(folder, splits, yolo.names)
    validator = Validator(data, side, settings.batch, folder)
    first_images = splits["rank"][: settings.batch]
    batches = ImageBatches(first_images, size=settings.imgsz, batch=settings.batch)
    example_inputs, _ = next(iter(batches))
    return EvaluateTask(
        model,
        evaluate=partial(validator, split="rank"),
        confirm=partial(validator, split="confirm"),
        holdout=partial(validator, split="holdout"),
        example_inputs=example_inputs,
        metric="mAP50-95",
    )


def _check_readable(yolo: Yolo, settings: YoloChoices) -> None:
    """Raise TaskError unless the model gives decoded boxes that the validator can read."""
    unreadable = {
        f"a model that does {yolo.kind}": yolo.kind != "detect",
        "an RT-DETR": yolo.is_rtdetr,
        "--end2end": yolo.end2end,
        "--output raw": settings.output == "raw",
    }
    for got, applies in unreadable.items():
        if applies:
            raise TaskError(
                "Expected a detector that gives decoded boxes for --evaluator ultralytics, got "
                f"{got}; leave one of them out."
            )


@dataclass(frozen=True)
class Validator:
    """ultralytics' own validator.

    data: a data YAML that names the splits.
    size: side of the square images in pixels.
    batch: images in a batch.
    folder: the folder for what the validator writes.
    """

    data: Path
    size: int
    batch: int
    folder: Path

    def __call__(self, model: Any, split: str) -> float:
        """Return mAP50-95 of a model, or of an exported file, on one split."""
        from ultralytics.models.yolo.detect import DetectionValidator

        settings = {
            "data": str(self.data),
            "split": split,
            "imgsz": self.size,
            "batch": self.batch,
            "rect": False,
            "plots": False,
            "workers": 0,
            "verbose": False,
            "task": "detect",
            "device": "cpu",
        }
        if not hasattr(model, "forward"):
            settings["model"] = str(model)
            model = None
        with contextlib.redirect_stdout(io.StringIO()):
            stats = DetectionValidator(args=settings, save_dir=self.folder)(model=model)
        return float(stats["metrics/mAP50-95(B)"])


def _require_torchvision() -> None:
    try:
        import torchvision  # noqa: F401
    except Exception as error:
        message = " ".join(str(error).split())[:150]
        raise TaskError(
            "Expected torchvision to import for --evaluator ultralytics, got "
            f"{type(error).__name__}: {message}; install the build that belongs to your torch, or "
            "leave --evaluator out."
        ) from error
