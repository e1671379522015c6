"""A template for YOLOv5 of its own repository (github.com/ultralytics/yolov5).

    export YOLOV5=/path/to/yolov5                    # your checkout
    export YOLOV5_WEIGHTS=/path/to/best.pt YOLO_DATA=/path/to/data.yaml
    sensitivity run examples/06_yolov5/task.py:task --max-drop 0.3pt

Weights of this repository are pickles of its classes: its own loader reads them, and runs the code
that they hold. Use files that you trust. YOLOv5u weights are of the ultralytics package:
`sensitivity yolo run` takes them.

Run in the tests on a model that the repository builds, with random weights, where YOLOV5 names a
checkout, and on a small stand-in with the same blocks and entry points; no trained weights of this
repository were at hand.
"""

from __future__ import annotations

import os
import sys

from sensitivity.tasks.base import Task
from sensitivity.workflows.yolo_repository import repository_task

SIZE = int(os.environ.get("YOLO_IMGSZ", "640"))


def task() -> Task:
    sys.path.insert(0, os.environ["YOLOV5"])
    from models.experimental import attempt_load  # of the checkout

    model = attempt_load(os.environ["YOLOV5_WEIGHTS"], device="cpu")  # folds BatchNorm
    model.model[-1].export = True  # gives [n, anchors, 5 + classes] without the feature maps
    return repository_task(model, os.environ["YOLO_DATA"], names=model.names.values(), imgsz=SIZE)
