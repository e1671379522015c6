"""ultralytics' own validator as the judge: one number for each whole evaluation."""

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
    """A task whose metric is mAP50-95 as `DetectionValidator` of ultralytics computes it, 0..1.

    Raises TaskError for a model that is no detector, an output that it does not read, or a
    torchvision that does not import.
    """
    others = {
        f"a model that does {yolo.kind}": yolo.kind != "detect",
        "an RT-DETR": yolo.is_rtdetr,
        "--end2end": yolo.end2end,
        "--output raw": settings.output == "raw",
    }
    for got in (name for name, is_so in others.items() if is_so):
        raise TaskError(
            f"Expected a detector that gives decoded boxes for --evaluator ultralytics, got {got}; "
            "leave one of them out."
        )
    side, width = sides(settings.imgsz)
    if side != width:
        raise TaskError(
            "Expected a square --imgsz for --evaluator ultralytics, which validates nothing else, "
            f"got {shown_size(settings.imgsz)}; leave --evaluator out."
        )
    _require_torchvision()
    folder = Path(tempfile.mkdtemp(prefix="sensitivity-yolo-"))
    data = yaml_for_validator(folder, splits, yolo.names)
    judge = Validator(data, side, settings.batch, folder)
    first = ImageBatches(
        splits["rank"][: settings.batch], size=settings.imgsz, batch=settings.batch
    )
    return EvaluateTask(
        model,
        evaluate=partial(judge, split="rank"),
        confirm=partial(judge, split="confirm"),
        holdout=partial(judge, split="holdout"),
        example_inputs=next(iter(first))[0],
        metric="mAP50-95",
    )


@dataclass(frozen=True)
class Validator:
    """ultralytics' own validator. data: YAML that names the splits. size: of the images, which are
    square. folder: for what it writes."""

    data: Path
    size: int
    batch: int
    folder: Path

    def __call__(self, model: Any, split: str) -> float:
        """mAP50-95 of a model, or of an exported file, on one split."""
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
        said = " ".join(str(error).split())[:150]
        raise TaskError(
            "Expected torchvision to import for --evaluator ultralytics, got "
            f"{type(error).__name__}: {said}; install the build that belongs to your torch, or "
            "leave --evaluator out."
        ) from error
