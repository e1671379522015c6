"""ultralytics' own validator as the metric. Where torchvision cannot be imported, its suppression
is that of ultralytics."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from support.yolo_models import coco, save, yolo, yolov8n

from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.tasks.base import EvaluateTask
from sensitivity.tasks.load import check_evaluate_task
from sensitivity.workflows import yolo as workflow

ASSETS = os.environ.get("SENSITIVITY_ASSETS")


@pytest.fixture(autouse=True)
def torchvision(monkeypatch):
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        from sensitivity.workflows.yolo_weights import ultralytics

        ultralytics()
        from ultralytics.utils.nms import TorchNMS

        module = types.ModuleType("torchvision")
        module.ops = types.SimpleNamespace(nms=TorchNMS.nms)
        module.__version__ = "0.0"
        monkeypatch.setitem(sys.modules, "torchvision", module)


def test_each_split_is_an_evaluation_of_its_own_images(tmp_path):
    weights, data = save(yolo(), tmp_path / "a.pt"), coco(tmp_path, 12)
    task = workflow.task(weights, data, imgsz=64, batch=2, calib_images=4, evaluator="ultralytics")
    assert isinstance(task, EvaluateTask)
    check_evaluate_task(task)
    assert task.example_inputs.shape == (2, 3, 64, 64)
    before = ModelOptModel(task.model).fingerprint()
    for judge in (task.evaluate, task.confirm, task.holdout):
        assert judge
        assert 0.0 <= judge(task.model) <= 1.0
    assert ModelOptModel(task.model).fingerprint() == before
    assert {judge.keywords["split"] for judge in (task.evaluate, task.confirm, task.holdout)} == {
        "rank", "confirm", "holdout"
    }  # fmt: skip


@pytest.mark.skipif(
    not ASSETS, reason="SENSITIVITY_ASSETS is not set: YOLOv8n and the COCO images are not here"
)
def test_it_agrees_with_the_built_in_judge_on_yolov8n(tmp_path):
    weights, data = save(yolov8n(ASSETS), tmp_path / "yolov8n.pt"), Path(ASSETS) / "coco"
    choices = {"imgsz": 320, "calib": data / "calib" / "images", "calib_images": 4, "limit": 48}
    found = []
    for evaluator in ("built-in", "ultralytics"):
        task = workflow.task(
            weights, data / "val" / "instances.json", evaluator=evaluator, **choices
        )
        source = ModelOptModel(task.model)
        with torch.no_grad(), source.disabled([quantizer.name for quantizer in source.quantizers]):
            if isinstance(task, EvaluateTask):
                found.append(task.confirm(task.model))
            else:
                scores = [
                    task.score(task.model(inputs), targets)
                    for inputs, targets in task.data["confirm"]
                ]
                found.append(task.aggregate(np.concatenate(scores)))
    # it counts crowds otherwise, and draws its curve otherwise
    assert found[0] == pytest.approx(found[1], abs=0.02)
    assert found[0] > 0.25
