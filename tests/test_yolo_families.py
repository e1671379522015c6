"""Each family of the ultralytics package, built from its own configuration without weights: does the path serve it?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from yolo_models import NAMES, yolo

from sensitivity.export.trace import trace
from sensitivity.onnx_graph.marks import is_mark
from sensitivity.quantizers.base import check_calibrated
from sensitivity.quantizers.modelopt import ModelOptModel
from sensitivity.tasks.detection_boxes import decode_corners, decode_ultralytics
from sensitivity.workflows.yolo_quantize import quantized
from sensitivity.workflows.yolo_weights import give_raw, prepared

FAMILIES = ("yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_folded_quantized_calibrated_and_traced(family):
    found = prepared(yolo(f"{family}.yaml"), family)
    inputs = torch.rand(2, 3, 64, 64)
    source = ModelOptModel(quantized(found.model, [inputs]))
    check_calibrated(source.quantizers)
    assert not any("dfl" in quantizer.name for quantizer in source.quantizers)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) and "bn" not in name for name, module in found.model.named_modules())  # fmt: skip
    with torch.no_grad():
        assert found.model(inputs).shape == (2, 4 + len(NAMES), 84)
    marks = {node.attributes.get_string("name") for node in trace(source, inputs).graph if is_mark(node, "Quantizer")}
    assert marks == {quantizer.name for quantizer in source.quantizers}


def test_re_parameterised_blocks_of_v9_and_v10_are_plain_convolutions_and_named():
    for config, kind in (("yolov9t.yaml", "RepConv"), ("yolov10n.yaml", "RepVGGDW")):
        found = prepared(yolo(config), config)
        blocks = [name for name, module in found.model.named_modules() if type(module).__name__ == kind]
        assert blocks
        assert set(blocks) == set(found.repvgg)
        convolutions = [
            sum(isinstance(m, torch.nn.Conv2d) for m in found.model.get_submodule(b).modules()) for b in blocks
        ]
        assert set(convolutions) == {1}


@pytest.mark.parametrize("family", ["yolov10n", "yolo26n"])
def test_the_one_to_one_head_gives_all_candidates_as_corners(family):
    model = yolo(f"{family}.yaml")
    inputs = torch.rand(1, 3, 64, 64)
    model.end2end = True
    with torch.no_grad():
        best = model(inputs)[0]  # the model's own choice: x1 y1 x2 y2 confidence class
    found = prepared(model, family, end2end=True)
    assert found.end2end
    with torch.no_grad():
        boxes, confidences = decode_corners(found.model(inputs), len(NAMES))
    assert confidences.shape == (1, len(NAMES), 84)
    for *box, confidence, label in best[0, ::20].numpy():
        distance = np.abs(boxes[0] - box).max(axis=1) + np.abs(confidences[0, int(label)] - confidence)
        assert distance.min() < 2e-3 * max(1.0, np.abs(box).max())


def test_raw_output_of_a_family_without_box_bins_is_decoded_too():
    from sensitivity.tasks.detection_boxes import decode_bins

    inputs = torch.rand(1, 3, 64, 64)
    found = prepared(yolo("yolo26n.yaml"), "yolo26n")
    with torch.no_grad():
        expected = decode_ultralytics(found.model(inputs))
        give_raw(found)
        decoded = decode_bins(found.model(inputs), 64)
    for one, other in zip(expected, decoded, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-3)
