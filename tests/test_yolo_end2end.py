"""Files that choose the best boxes in their graph, for heads whose boxes need no suppression."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from sensitivity.errors import ExportError
from sensitivity.exporters.writing import save as save_onnx
from sensitivity.onnx_graph.passes.best_boxes import BestBoxes
from sensitivity.workflows import yolo_end2end
from sensitivity.workflows.yolo_end2end import chosen_best, with_best_boxes
from sensitivity.workflows.yolo_weights import ultralytics


def candidates_file(folder, rows, *, opset=17, anchors=84, extra_output=False):
    """A file that gives its input as candidates, and with `extra_output` once more."""
    shape = ["n", rows, anchors]
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    names = ["candidates", "again"] if extra_output else ["candidates"]
    outputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in names
    ]
    nodes = [onnx.helper.make_node("Identity", ["x"], [name]) for name in names]
    graph = onnx.helper.make_graph(nodes, "g", [given], outputs)
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8
    )
    return save_onnx(ir.from_proto(model), folder / "model.float.onnx")


def chosen(file, x):
    return onnxruntime.InferenceSession(file).run(None, {"x": x})


@pytest.mark.parametrize(("opset", "more"), [(17, 0), (17, 5), (19, 5)])
def test_the_boxes_are_those_that_ultralytics_chooses(tmp_path, opset, more):
    ultralytics()
    from ultralytics.nn.modules.head import Detect

    x = np.random.default_rng(0).random((3, 7 + more, 84), np.float32)
    file = candidates_file(tmp_path, 7 + more, opset=opset, extra_output=True)
    facts = with_best_boxes(file, {"x": torch.from_numpy(x)}, classes=3, most=20)
    assert list(facts) == ["model.float.end2end.onnx"]
    found, again = chosen(tmp_path / "model.float.end2end.onnx", x)
    head = Detect(nc=3, ch=(8,))
    head.max_det = 20
    expected = head.postprocess(torch.from_numpy(x).permute(0, 2, 1)).numpy()
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(again, x)


def test_fewer_anchors_than_boxes_are_all_chosen_from(tmp_path):
    x = np.random.default_rng(0).random((2, 7, 84), np.float32)
    facts = with_best_boxes(candidates_file(tmp_path, 7), {"x": torch.from_numpy(x)}, classes=3)
    assert "the choice of 84 boxes" in facts["model.float.end2end.onnx"]


def test_a_choice_of_others_is_refused(tmp_path, monkeypatch):
    class Worst(BestBoxes):
        def call(self, model):
            result = super().call(model)
            for node in model.graph:
                if node.op_type == "TopK":
                    node.attributes["largest"] = ir.AttrInt64("largest", 0)
            return result

    monkeypatch.setattr(yolo_end2end, "BestBoxes", Worst)
    x = torch.rand(2, 7, 84)
    with pytest.raises(
        ExportError,
        match=r"Expected model\.float\.end2end\.onnx to choose the best 20 of the candidates",
    ):
        with_best_boxes(candidates_file(tmp_path, 7), {"x": x}, classes=3, most=20)


def test_rows_of_other_anchors_with_the_right_confidences_are_seen():
    candidates = np.random.default_rng(0).random((30, 7))
    anchors, labels = np.unravel_index(np.argsort(-candidates[:, 4:], axis=None)[:10], (30, 3))
    rows = np.column_stack([candidates[anchors, :4], candidates[anchors, 4 + labels], labels])
    assert chosen_best(rows, candidates, classes=3, most=10)
    rows[0, :4] = candidates[(anchors[0] + 1) % 30, :4]
    assert not chosen_best(rows, candidates, classes=3, most=10)


def test_outputs_that_are_no_candidates_are_reported(tmp_path):
    with pytest.raises(
        ExportError,
        match=r"Expected candidates \[n, 14 or more, anchors\] .* export the model without",
    ):
        with_best_boxes(candidates_file(tmp_path, 7), {"x": torch.rand(1, 7, 84)}, classes=10)
