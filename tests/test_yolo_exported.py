"""ONNX files that ultralytics itself exports are judged like its models."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from support.yolo_models import coco, save, yolo

from sensitivity.onnx_task.reading import Reading
from sensitivity.onnx_task.task import task_of
from sensitivity.workflows.yolo_weights import prepared, ultralytics


@pytest.mark.parametrize(
    ("family", "kind", "task", "metric"),
    [
        ("yolov8n-seg", "SegmentationModel", "segment", "box and mask mAP50-95"),
        ("yolov8n-pose", "PoseModel", "pose", "box and key-point mAP50-95"),
        ("yolo26n-obb", "OBBModel", "obb", "rotated mAP50-95"),
    ],
)
def test_a_file_and_its_model_have_the_same_records(family, kind, task, metric, tmp_path):
    data = coco(tmp_path)
    model = yolo(f"{family}.yaml", kind)
    model.task = task
    loaded = ultralytics().YOLO(str(save(model, tmp_path / f"{family}.pt")))
    loaded.model.task = task  # which training would have set
    file = Path(loaded.export(format="onnx", imgsz=64, simplify=False, dynamic=True))
    session = onnxruntime.InferenceSession(file)
    found = task_of(
        SimpleNamespace(
            path=file,
            metadata=session.get_modelmeta().custom_metadata_map,
            get_inputs=session.get_inputs,
            get_outputs=session.get_outputs,
        ),
        data,
        Reading(),
    )
    assert found.metric == metric
    inputs, targets = next(iter(found.data["rank"]))
    of_file = found.score(session.run(None, {"images": inputs}), targets)
    with torch.no_grad():
        outputs = prepared(model, family).model(torch.from_numpy(inputs))
    assert (of_file[:, 0] > 0).all()  # something is reported
    np.testing.assert_allclose(of_file, found.score(outputs, targets), atol=1e-3)
