"""Scales of activations of shape [1], in every file that is written: scalars of the same value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from support.onnx_models import qdq_file, run_file

from sensitivity.exporters.lower import lower_file
from sensitivity.exporters.onnx_file import export_onnx, verify_onnx
from sensitivity.exporters.torch_model import disabled_by_variant
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.passes.insert_qdq import InsertQdq
from sensitivity.onnx_graph.passes.scalar_scales import ScalarScales
from sensitivity.opened import quantized_model
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.records import Grid
from sensitivity.simulators.onnx.whole import WholeFile

PORTS = "(float[batch, 3, 8, 8] x) => (float[batch, 2, 8, 8] y)"
BODY = """
    xq = QuantizeLinear <axis = 1> (x, s, z) xd = DequantizeLinear <axis = 1> (xq, s, z)
    wq = QuantizeLinear <axis = 0> (w, s, z) wd = DequantizeLinear <axis = 0> (wq, s, z)
    a = Conv (xd, wd)
    one = Constant <value_floats = [0.125]> ()
    aq = QuantizeLinear (a, one, z) ad = DequantizeLinear (aq, one, z)
    vq = QuantizeLinear (v, t, y0) vd = DequantizeLinear (vq, t, y0)
    y = Conv (ad, vd)
"""
CONSTANTS = {
    "s": np.array([0.05], np.float32),
    "z": np.array([0], np.int8),
    "t": np.array(0.25, np.float32),
    "y0": np.array(0, np.int8),
    "w": np.full((1, 3, 1, 1), 0.3, np.float32),
    "v": np.array([0.5, -1], np.float32).reshape(2, 1, 1, 1),
}
X = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)


def vector_file(folder: Path) -> Path:
    """Two convolutions: the activations of both have scales of shape [1], and so has the first
    weight."""
    return qdq_file(folder / "vector.onnx", BODY, CONSTANTS, ports=PORTS)


def shapes(model: ir.Model) -> dict[str, list[tuple[int, ...]]]:
    """For each Q and DQ, by its output: the shapes of scale and zero point."""
    nodes = [node for node in model.graph if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    return {
        node.outputs[0].name: [qdq.constant(value).shape for value in node.inputs[1:]]
        for node in nodes
    }


ACTIVATIONS, SCALARS = ("xq", "xd", "aq", "ad"), [(), ()]


def test_scales_of_activations_become_scalars_and_those_of_weights_stay(tmp_path: Path) -> None:
    model = load_model(vector_file(tmp_path))
    assert ScalarScales()(model).modified
    found = shapes(model)
    assert [found[name] for name in ACTIVATIONS] == [SCALARS] * 4
    assert found["wq"] == found["wd"] == [(1,), (1,)]
    assert sorted(model.graph.initializers) == [
        "one.scalar",
        "s",
        "s.scalar",
        "t",
        "v",
        "w",
        "y0",
        "z",
        "z.scalar",
    ]
    assert "Constant" not in {node.op_type for node in model.graph}, "nothing reads it any more"
    assert not ScalarScales()(model).modified


def test_blocks_of_one_keep_their_shape() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[4] x) => (float[4] y) <float[1] s = '
        "{0.5}, int8[1] z = {0}> "
        "{ q = QuantizeLinear <axis = 0, block_size = 4> (x, s, z) y = DequantizeLinear <axis = 0, "
        "block_size = 4> (q, s, z) }"
    )
    assert not ScalarScales()(model).modified


def test_every_file_of_a_qdq_source_has_scalars_and_computes_the_same(tmp_path: Path) -> None:
    file = vector_file(tmp_path)
    source = quantized_model(OnnxModel(file))
    units = layers(source.quantizers)
    files = export_onnx(source, units, ["Conv_a"], tmp_path / "out", fingerprint="")
    disabled = disabled_by_variant(source, units, ["Conv_a"])
    verify_onnx(source, files, disabled, X, WholeFile(source))
    int8, partial = (shapes(load_model(files[variant])) for variant in ("int8", "partial"))
    assert [int8[name] for name in ACTIVATIONS] == [SCALARS] * 4
    assert {name for name in ACTIVATIONS if name in partial} == {"aq", "ad"}
    assert partial["aq"] == partial["ad"] == SCALARS
    np.testing.assert_array_equal(run_file(files["int8"], X), run_file(file, X))


def test_a_file_lowered_for_tensorrt_has_scalars(tmp_path: Path) -> None:
    lowered = load_model(lower_file(vector_file(tmp_path), "tensorrt", tmp_path / "lowered.onnx"))
    pairs = [pair for pair in qdq.pairs(lowered.graph) if not pair.of_weight]
    assert [pair.scale.shape for pair in pairs] == [(), ()]
    assert [pair.zero_point.shape for pair in pairs] == [(), ()]
    assert [float(pair.scale) for pair in pairs] == [np.float16(0.05), 0.125]


def test_a_quantizer_with_one_scale_along_an_axis_of_one_channel_is_written_as_a_scalar() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17, "sensitivity" : 1]> '
        "g (float[1, 1, 4] x) => (float[1, 1, 4] y) { y = sensitivity.Quantizer "
        '<name="a.input_quantizer"> (x) }'
    )
    InsertQdq({"a.input_quantizer": Grid(np.ones(1, np.float32), 0, -128, 127, 1)}, {})(model)
    assert list(shapes(model).values()) == [SCALARS] * 2
    assert [list(node.attributes) for node in model.graph] == [[], []]
