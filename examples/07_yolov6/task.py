"""A template for YOLOv6 of its own repository (github.com/meituan/YOLOv6): a YOLO of RepVGG blocks.

    export YOLOV6=/path/to/YOLOv6                    # your checkout
    export YOLOV6_WEIGHTS=/path/to/best_ckpt.pt YOLO_DATA=/path/to/data.yaml
    sensitivity run examples/07_yolov6/task.py:task --max-drop 0.3pt --unit group

RepVGG blocks are merged first (`switch_to_deploy`); they and the parts of the head are units of
their own with `--unit group`, and marked in the report. Weights of this repository are pickles of
its classes: its own loader reads them, and runs the code that they hold. Use files that you trust.

Run in the tests on a model that the repository builds, with random weights, where YOLOV6 names a
checkout, and on a small stand-in with the same blocks and entry points; no trained weights of this
repository were at hand.
"""

from __future__ import annotations

import os
import sys

import yaml

from sensitivity.tasks.base import Task
from sensitivity.workflows.yolo_repository import repository_task

SIZE = int(os.environ.get("YOLO_IMGSZ", "640"))


def task() -> Task:
    sys.path.insert(0, os.environ["YOLOV6"])
    # its loader is from before torch 2.6, which reads no pickle of classes unless told so
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    from yolov6.utils.checkpoint import load_checkpoint  # of the checkout

    # folds BatchNorm
    model = load_checkpoint(os.environ["YOLOV6_WEIGHTS"], map_location="cpu", fuse=True)
    with open(os.environ["YOLO_DATA"]) as data:
        names = yaml.safe_load(data)["names"]
    names = names.values() if isinstance(names, dict) else names
    return repository_task(model, os.environ["YOLO_DATA"], names=names, imgsz=SIZE)
