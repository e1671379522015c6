"""Limits on integers between Q and DQ become one Clip, with values equal to those of the graph
before."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from sensitivity.onnx_graph.passes.one_clip_per_pair import OneClipPerPair

GRAPH = """<ir_version: 8, opset_import: ["" : 17]>
example (float[2,3] x) => (float[a,b] y)
<float s = {{0.1}}, int8 z = {{0}}, int8 low = {{-7}}, int8 high = {{5}}, int8 wide = {{90}},
 int8 lowest = {{-128}}>
{{
    q = QuantizeLinear (x, s, z)
    {body}
    y = DequantizeLinear (l, s, z)
}}"""
X = np.array([[-12.0, -0.3, 0.2], [0.7, 0.05, 12.0]], np.float32)


def run(model: ir.Model) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(None, {"x": X})[0]


def rewritten(body: str) -> tuple[list[str], list[list[int | None]]]:
    """The operations after the pass, and the limits of each Clip; the values are as before."""
    proto = onnx.parser.parse_model(GRAPH.format(body=body))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    before = run(model)
    changed = OneClipPerPair()(model).modified
    assert run(model) == pytest.approx(before, abs=0)
    clips = [node.outputs[0] for node in model.graph if node.op_type == "Clip"]
    assert {clip.type for clip in clips} == {ir.TensorType(ir.DataType.INT8)}
    operations = [node.op_type for node in model.graph]
    limits = [
        [None if end is None else int(end.const_value.numpy()) for end in node.inputs[1:]]
        for node in model.graph
        if node.op_type == "Clip"
    ]
    assert changed == ("Max" in body or "Min" in body or body.count("=") > 1)
    return operations, limits


@pytest.mark.parametrize(
    ("body", "limits"),
    [
        ("l = Max (q, low)", [-7]),
        ("l = Max (low, q)", [-7]),
        ("l = Min (q, high)", [None, 5]),
        ("l = Min (high, q)", [None, 5]),
        ("c = Max (q, low)\n l = Min (c, high)", [-7, 5]),
        ("c = Min (high, q)\n l = Max (low, c)", [-7, 5]),
        ("c = Clip (q, low, wide)\n l = Clip (c, lowest, high)", [-7, 5]),
        ("l = Clip (q, low, high)", [-7, 5]),
    ],
)
def test_limits_of_every_spelling_become_one_clip(body: str, limits: list[int | None]) -> None:
    operations, found = rewritten(body)
    assert operations == ["QuantizeLinear", "Clip", "DequantizeLinear"]
    assert [end for end in found[0] if end is not None] == [
        end for end in limits if end is not None
    ]
    assert found[0][: len(limits)] == limits


def test_a_clip_behind_moved_integers_comes_before_the_move() -> None:
    operations, limits = rewritten("t = Transpose <perm = [1, 0]> (q)\n l = Clip (t, low, high)")
    assert operations == ["QuantizeLinear", "Clip", "Transpose", "DequantizeLinear"]
    assert limits == [[-7, 5]]


def test_a_clip_between_readers_of_moved_integers_stays_where_it_is() -> None:
    body = "t = Transpose <perm = [1, 0]> (q)\n c = Clip (t, low, high)\n l = Min (c, t)"
    model = ir.from_proto(onnx.parser.parse_model(GRAPH.format(body=body)))
    before = run(model)
    assert not OneClipPerPair()(model).modified
    assert [node.op_type for node in model.graph][1:4] == ["Transpose", "Clip", "Min"]
    assert run(model) == pytest.approx(before, abs=0)
