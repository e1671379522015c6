"""TensorFlow's fake-quant operations that tf2onnx leaves in a file are read as Q/DQ pairs, with the
values that TensorFlow 2.21 gives for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from support.commands import verb
from support.onnx_text import network_of

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph.passes.fake_quant_pairs import FakeQuantPairs
from sensitivity.onnx_graph.passes.scalar_scales import ScalarScales
from sensitivity.quantize.prepare import is_float
from sensitivity.quantizers.onnx.model import OnnxModel

HEAD = '<ir_version: 8, opset_import: ["" : 13]>'
X = [-7.3, -1.2, -0.31, -0.02, 0.0, 0.013, 0.41, 2.71, 5.99, 6.4, 9.0]


def one(low: float, high: float, attributes: str) -> ir.Model:
    ends = {"low": np.float32(low), "high": np.float32(high)}
    text = f"{HEAD} one (float[n] x) => (float[n] y) {{ y = {attributes} (x, low, high) }}"
    return network_of(text, **{name: np.array(end) for name, end in ends.items()})


def run(model: ir.Model, x: Any) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(None, {"x": np.asarray(x, np.float32)})[0]


@pytest.mark.parametrize(("low", "high", "bits", "narrow", "kind", "tensorflow"), [
    (-6, 6, 8, 0, np.int8, [-6.02353, -1.22353, -0.329412, 0, 0, 0, 0.423529, 2.72941, 5.97647]),
    (0, 6, 8, 0, np.uint8, [0, 0, 0, 0, 0, 0.0235294, 0.4, 2.70588, 6]),
    (0.5, 6, 8, 0, np.uint8, [0, 0, 0, 0, 0, 0.0215686, 0.409804, 2.71765, 5.5]),
    (-1, 6, 4, 0, np.uint8, [-0.933333, -0.933333, -0.466667, 0, 0, 0, 0.466667, 2.8, 6.06667]),
    (-3, 3, 4, 1, np.int8, [-3, -1.28571, -0.428571, 0, 0, 0, 0.428571, 2.57143, 3]),
    (-2, 6, 2, 0, np.uint8, [-2.66667, 0, 0, 0, 0, 0, 0, 2.66667, 5.33333]),
    # one level below a narrow range is kept
    (-6, 6, 8, 1, np.int8, [-6.04724, -1.1811, -0.330709, 0, 0, 0, 0.425197, 2.69291, 6]),
])  # fmt: skip
def test_a_pair_gives_what_tensorflow_gives(
    low: float, high: float, bits: int, narrow: int, kind: type, tensorflow: list[float]
) -> None:
    attributes = f"FakeQuantWithMinMaxVars <num_bits = {bits}, narrow_range = {narrow}>"
    model = one(low, high, attributes)
    assert FakeQuantPairs()(model).modified
    expected = [*tensorflow, tensorflow[-1], tensorflow[-1]]
    assert run(model, X) == pytest.approx(expected, abs=2e-5)
    (quantize,) = (node for node in model.graph if node.op_type == "QuantizeLinear")
    assert quantize.inputs[2].const_value.numpy().dtype == kind
    assert any(node.op_type == "Clip" for node in model.graph) == (bits < 8)


def test_a_range_in_attributes_and_one_that_was_never_seen() -> None:
    text = "x (float[n] x) => (float[n] y) { y = FakeQuantWithMinMaxArgs (x) }"
    model = network_of(f"{HEAD} {text}")
    FakeQuantPairs()(model)
    assert run(model, [-0.31, 2.71]) == pytest.approx([-0.329412, 2.72941], abs=1e-5)
    model = one(0, 0, "FakeQuantWithMinMaxVars")
    FakeQuantPairs()(model)
    assert run(model, X) == pytest.approx(np.zeros(len(X)), abs=1e-18)


def test_channels_are_the_last_axis() -> None:
    ends = np.array([0.3, 2.0, 0.0], np.float32)
    text = f"""{HEAD} w (float[3,3] x) => (float[3,3] y) {{
        y = FakeQuantWithMinMaxVarsPerChannel <narrow_range = 1> (x, low, high) }}"""
    model = network_of(text, low=-ends, high=ends)
    FakeQuantPairs()(model)
    given = [[0.3, -1.2, 0], [0.1, 0.7, 0], [-0.25, 2.0, 0]]
    tensorflow = [[0.3, -1.19685, 0], [0.0992126, 0.692913, 0], [-0.250394, 2.0, 0]]
    assert run(model, given) == pytest.approx(np.array(tensorflow), abs=1e-5)


NETWORK = """
network (float[n,6,6,3] image) => (float[n,4] scores) {
    f1 = FakeQuantWithMinMaxVars <num_bits = 8, narrow_range = 1> (image, low, high)
    t1 = Transpose <perm = [0, 3, 1, 2]> (f1)
    wq = FakeQuantWithMinMaxVarsPerChannel <narrow_range = 1> (kernel, klow, khigh)
    wt = Transpose <perm = [3, 2, 0, 1]> (wq)
    c1 = Conv <pads = [1, 1, 1, 1]> (t1, wt)
    r1 = Relu (c1)
    p1 = GlobalAveragePool (r1)
    s1 = Squeeze (p1, axes)
    f2 = FakeQuantWithMinMaxVars <num_bits = 8, narrow_range = 1> (s1, low, high)
    scores = MatMul (f2, dense)
}"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as tf2onnx leaves it: NHWC, and no pair in it."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 3, 8)).astype(np.float32)
    ends = np.abs(kernel).max((0, 1, 2))
    arrays = {
        "kernel": kernel, "klow": -ends, "khigh": ends, "axes": np.array([2, 3]),
        "dense": rng.normal(size=(8, 4)).astype(np.float32),
        "low": np.float32(-4), "high": np.float32(4),
    }  # fmt: skip
    model = network_of(HEAD + NETWORK, **{name: np.array(one) for name, one in arrays.items()})
    path = tmp_path_factory.mktemp("tensorflow") / "qat.onnx"
    onnx.save(ir.to_proto(model), path)
    return path


def test_a_file_with_fake_quant_alone_is_a_calibrated_model(network: Path) -> None:
    assert not is_float(network)
    found = {(use.unit, use.pair.of_weight) for use in OnnxModel(network).uses}
    units = {unit for unit, _ in found}
    assert len(units) == 2
    assert len(found) == 3, "two activations and a weight, through its Transpose"


def test_such_a_file_goes_through_a_run_to_files_that_runtimes_take(
    network: Path, tmp_path: Path
) -> None:
    x = np.random.default_rng(1).normal(size=(40, 6, 6, 3)).astype(np.float32)
    (scores,) = OnnxModel(network).run(None, {"image": x})
    np.savez(tmp_path / "data.npz", x=x, y=scores.argmax(1))
    words = ("--no-recalibrate", "--rounds", "3", "--threads", "1", "--out", tmp_path / "run")
    assert verb("run", network, "--data", tmp_path / "data.npz", *words) == 0
    file = onnxruntime.InferenceSession(tmp_path / "run/model.int8.onnx")
    assert file.run(None, {"image": x})[0] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize(("text", "said"), [
    ("l = ReduceMin (x) y = FakeQuantWithMinMaxVars (x, l, l)",
     "Expected the range of FakeQuantWithMinMaxVars at y to be constant, .*training=False"),
    ("y = FakeQuantWithMinMaxArgs <num_bits = 16> (x)",
     "FakeQuantWithMinMaxArgs at y to have up to 8 bits, got 16; .*num_bits=8"),
])  # fmt: skip
def test_what_no_pair_can_stand_for_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    model = network_of(f"{HEAD} x (float[n] x) => (float[n] y) {{ {text} }}")
    onnx.save(ir.to_proto(model), tmp_path / "x.onnx")
    with pytest.raises(OnnxFileError, match=said):
        OnnxModel(tmp_path / "x.onnx")


def test_scales_of_the_pairs_are_scalars() -> None:
    model = one(-6, 6, "FakeQuantWithMinMaxVars")
    FakeQuantPairs()(model)
    assert not ScalarScales()(model).modified
