"""`sensitivity yolo`: the whole job on a YOLO of the ultralytics package."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sensitivity.cli import lazy
from sensitivity.cli.options import aside, long_verb
from sensitivity.config import YoloSettings

if TYPE_CHECKING:
    from sensitivity.cli.progress import Teller


@long_verb(YoloSettings, "run")
def run(settings: YoloSettings, teller: Teller) -> int:
    """Load, quantize, scan, plan, export, bench and report.

    The model is prepared first: BatchNorm is folded, RepVGG blocks are re-parameterised, and
    convolutions are quantized by rules that fit TensorRT and calibrated with ModelOpt. DFL and the
    decoding of boxes stay float. Then follows what `sensitivity run` does.

    The run directory then holds a task file, task.py, which you can read and change. Every other
    verb works on that directory.

    \b
    sensitivity yolo run --weights yolov8n.pt --data coco.yaml --max-drop 0.3pt
    sensitivity yolo run --weights best.pt --data instances.json --calib train/images --imgsz 320

    Exit codes: 0 target met, 2 target missed, 1 error.
    """  # noqa: D301 - a backspace keeps click from wrapping the lines below it
    teller.say("Loading, quantizing and calibrating (minutes for a large model).")
    if settings.dry_run:
        _show_forecast(settings)
        return 0
    with aside():
        own = lazy.yolo.prepare(settings)
        plan = lazy.api.run(own, teller)
    assert own.out is not None
    lazy.render.show(own.out, ranking=True, latency=True)
    click.echo(f"Report: {own.out / 'report.html'}")
    return 0 if plan.met else 2


def _show_forecast(settings: YoloSettings) -> None:
    """Print the forecast of the run, and write a new task file into a temporary folder only."""
    with tempfile.TemporaryDirectory() as folder:
        with aside():
            forecast = lazy.api.forecast(lazy.yolo.prepare(settings, Path(folder)))
        lazy.forecast.show_forecast(forecast)


@click.group("yolo")
def command() -> None:
    """Find the layers that a YOLO of the ultralytics package needs in float to keep its accuracy.

    It takes a weights file (v5u, v8, v9, v10, 11, 12, 26, RT-DETR, YOLO-World; detection,
    segmentation, poses, rotated boxes, classification) and labelled images. For YOLOv5, v6 and v7
    of their own repositories see examples/06 to 08. If you have only an ONNX file, give it to
    `sensitivity run`.
    """


command.add_command(run)
