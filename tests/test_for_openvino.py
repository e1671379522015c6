"""Copies of Q/DQ files for OpenVINO, which computes wrong values of some int8 activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.onnx_text import network_of

from sensitivity.errors import ExportError
from sensitivity.exporters import for_openvino
from sensitivity.exporters.example import Example
from sensitivity.exporters.for_openvino import exact_copies
from sensitivity.rules.lint import run_lint
from sensitivity.runtimes.onnxruntime import OnnxRuntime

X = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
WEIGHT = np.random.default_rng(1).normal(size=(4, 6, 3, 3)).astype(np.float32)
JOINED = "r = Relu (x) g = Sigmoid (x) k = Concat <axis = 1> (r, g) "
PAIR = "q = QuantizeLinear (k, s, z) d = DequantizeLinear (q, s, z) "
QUANTIZED = PAIR + "wq = QuantizeLinear (w, ws, z) wd = DequantizeLinear (wq, ws, z) "
CONV = "y = Conv (d, wd)"


def network(body: str, **arrays: np.ndarray) -> ir.Model:
    head = '<ir_version: 8, opset_import: ["" : 17]> net (float[2,3,16,16] x) => (float[a,b,c,d] y)'
    given = {"w": WEIGHT, "s": np.float32(0.03), "ws": np.float32(0.03), "z": np.int8(0)} | arrays
    given = {name: np.asarray(array) for name, array in given.items() if f", {name}" in body}
    if "(w, " in body:
        given["w"] = WEIGHT
    return network_of(f"{head} {{ {body} }}", **given)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Files whose convolution reads an int8 Concat; `partial` is as `int8`."""
    models = {"float": network(JOINED + "y = Conv (k, w)")}
    models |= dict.fromkeys(("int8", "partial"), network(JOINED + QUANTIZED + CONV))
    made = {name: tmp_path / f"model.{name}.onnx" for name in models}
    for name, model in models.items():
        ir.save(model, made[name])
    return made


def test_openvino_computes_the_copy_as_the_file_says_but_not_the_file(
    files: dict[str, Path],
) -> None:
    openvino = pytest.importorskip("sensitivity.runtimes.openvino")
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    names = [f"model.{variant}.openvino.onnx" for variant in ("int8", "partial")]
    assert list(exact_copies(files, Example({"x": X}))) == names
    copy = files["int8"].with_name(names[0])
    with OnnxRuntime(optimize=False).build(files["int8"]) as engine:
        (expected,) = engine.run({"x": X}).values()
    off = {}
    for file in (files["int8"], copy):
        with openvino.OpenVino().build(file, threads=1) as engine:
            (found,) = engine.run({"x": X}).values()
        off[file.name] = np.abs(found - expected).max() / np.abs(expected).max()
    assert off[copy.name] < 1e-4 < 0.05 < off["model.int8.onnx"]
    assert [hit.code for hit in run_lint(files["int8"], "openvino")] == ["SQ601"]
    assert run_lint(copy, "openvino") == []


def test_a_file_that_openvino_computes_right_has_no_copy(files: dict[str, Path]) -> None:
    example = Example({"x": X})
    assert len(exact_copies(files, example)) == 2
    unsigned = network(JOINED + QUANTIZED.replace("z)", "u)", 2) + CONV, u=np.array(128, np.uint8))
    alone = network("k = Concat <axis = 1> (x, x) y = Conv (k, w)")
    for variant, model in (("int8", unsigned), ("partial", alone)):
        ir.save(model, files[variant])
    assert exact_copies(files, example) == {}
    assert not list(files["int8"].parent.glob("*.openvino.onnx")), "copies of before are removed"


def test_a_copy_that_computes_something_else_is_refused_or_left_out(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = network(JOINED + QUANTIZED + CONV, s=np.float32(0.3))
    monkeypatch.setattr(for_openvino, "_exact", lambda model: wrong.clone())
    example = Example({"x": X})
    with pytest.raises(
        ExportError, match="model.int8.openvino.onnx to differ from model.int8.onnx by at most"
    ):
        exact_copies(files, example)
    reasons: dict[str, str] = {}
    assert exact_copies(files, example, left_out=reasons) == {}
    assert reasons["model.partial.openvino.onnx"].startswith(
        "not written, although OpenVINO computes wrong values of model.partial.onnx: Expected"
    )
    assert not list(files["int8"].parent.glob("*.openvino.onnx"))
