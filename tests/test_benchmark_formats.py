"""What the comparison of plans of three formats counts: multiply-accumulates, and the format of
each node of a file."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

pytest.importorskip("modelopt")
pytest.importorskip("sklearn")
ROOT = Path(__file__).parents[1]
FLOAT = """<ir_version: 8, opset_import: ["" : 17]>
net (float[2, 3, 4, 4] input) => (float[2, 5] y) {
  [conv] c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (input, kernel)
  p = GlobalAveragePool (c)
  f = Flatten (p)
  [product] y = MatMul (f, matrix)
}"""
PAIRS = """<ir_version: 10, opset_import: ["" : 21]>
net (float[2, 4] x) => (float[2, 4] c) {
  q8 = QuantizeLinear (x, s, z8)
  d8 = DequantizeLinear (q8, s, z8)
  q16 = QuantizeLinear (x, s, z16)
  d16 = DequantizeLinear (q16, s, z16)
  w8 = DequantizeLinear (w, s, z8)
  [narrow] a = MatMul (d8, w8)
  [wide] b = MatMul (d16, w8)
  [real] c = MatMul (x, w8)
}"""


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("formats")


def parsed(text: str, **constants: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    return model


def test_multiply_accumulates_of_one_sample_are_those_counted_by_hand(
    peers: ModuleType, tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)
    kernel = draw.normal(size=(6, 3, 3, 3)).astype(np.float32)
    matrix = draw.normal(size=(6, 5)).astype(np.float32)
    onnx.save(parsed(FLOAT, kernel=kernel, matrix=matrix), tmp_path / "net.onnx")
    calib = [draw.normal(size=(2, 3, 4, 4)).astype(np.float32)]
    model = peers.Model("net", tmp_path / "net.onnx", calib, {})
    macs = peers.macs_of(model)
    assert macs == {"conv": 6 * 4 * 4 * 3 * 3 * 3, "product": 6 * 5}
    quantized = onnx.load(peers.int8_file(model, tmp_path / "int8.onnx"))
    assert peers.kinds_of(quantized, macs) == {"conv": "INT8", "product": "INT8"}


def test_a_node_has_the_format_of_the_pairs_that_it_reads(peers: ModuleType) -> None:
    one = np.array(0.1, np.float32)
    model = parsed(PAIRS, s=one, z8=np.int8(0), z16=np.int16(0), w=np.ones((4, 4), np.int8))
    kinds = peers.kinds_of(model, {"narrow", "wide", "real"})
    assert kinds == {"narrow": "INT8", "wide": "16 bits", "real": "float"}
