"""A template for YOLOv7 of its own repository (github.com/WongKinYiu/yolov7), whose neck ends in
RepConv blocks.

    export YOLOV7=/path/to/yolov7                    # your checkout
    export YOLOV7_WEIGHTS=/path/to/yolov7.pt YOLO_DATA=/path/to/data.yaml
    sensitivity run examples/08_yolov7/task.py:task --max-drop 0.3pt --unit group

Loading merges RepConv blocks (`fuse_repvgg_block`) and the implicit layers of the head. Weights of
this repository are pickles of its classes: its own loader reads them, and runs the code that they
hold. Use files that you trust.

Run in the tests on a model that the repository builds, with random weights, where YOLOV7 names a
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
    sys.path.insert(0, os.environ["YOLOV7"])
    # its loader is from before torch 2.6, which reads no pickle of classes unless told so
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    from models.experimental import attempt_load  # of the checkout

    # folds BatchNorm, merges RepConv
    model = attempt_load(os.environ["YOLOV7_WEIGHTS"], map_location="cpu")
    # gives [n, anchors, 5 + classes] decoded, without the feature maps
    model.model[-1].end2end = True
    return repository_task(model, os.environ["YOLO_DATA"], names=model.names, imgsz=SIZE)
