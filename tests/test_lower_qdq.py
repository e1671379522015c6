"""Files of Q/DQ sources that are lowered for ONNX Runtime, as those that toolkits make for
TensorRT."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import QuantType
from support.commands import verb
from support.onnx_models import float_file, images, labelled, qdq_file, static_file

from sensitivity.errors import ExportError
from sensitivity.exporters import lower_qdq as module
from sensitivity.exporters.example import Example
from sensitivity.exporters.lower_qdq import lacks_output_pairs, lower_qdq
from sensitivity.onnx_graph.load import load_model

LAYERS = ["Conv", "Gemm", "MatMul"]
FOR_TENSORRT: dict[str, Any] = {
    "per_channel": True,
    "activation_type": QuantType.QInt8,
    "op_types_to_quantize": LAYERS,
    "extra_options": {
        "ActivationSymmetric": True,
        "OpTypesToExcludeOutputQuantization": LAYERS,
    },
}
"""Options of quantize_static for pairs in front of layers alone."""


def kinds(file: Path) -> Counter[str]:
    """The operations that ONNX Runtime runs, and how many of each."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(file.with_suffix(".optimized"))
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.fixture(params=[False, True], ids=["float-biases", "int32-biases"])
def files(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Path]:
    extra = {**FOR_TENSORRT["extra_options"], "QuantizeBias": request.param}
    made = {name: tmp_path / f"model.{name}.onnx" for name in ("float", "int8", "partial")}
    float_file(made["float"])
    for name in ("int8", "partial"):
        static_file(made["float"], made[name], **FOR_TENSORRT | {"extra_options": extra})
    return made


def test_convolutions_whose_outputs_have_no_pairs_run_in_int8(files: dict[str, Path]) -> None:
    x = images(8, seed=3)
    assert kinds(files["int8"])["QLinearConv"] == 0
    checks = lower_qdq(files, "onnxruntime", Example({"x": x}), lambda: [{"x": x}])
    assert list(checks) == ["model.int8.onnxruntime.onnx", "model.partial.onnxruntime.onnx"]
    convs = sum(node.op_type == "Conv" for node in onnx.load(files["float"]).graph.node)
    lowered = files["int8"].with_name("model.int8.onnxruntime.onnx")
    assert kinds(lowered)["QLinearConv"] == convs


def test_a_convolution_with_an_integer_bias_behind_a_clip_runs_in_int8_too(tmp_path: Path) -> None:
    """The steps of ReLU6 become finer, and those of the next bias with them."""
    rng = np.random.default_rng(0)
    given = {
        "w": rng.normal(size=(8, 3, 3, 3)),
        "v": rng.normal(size=(4, 8, 3, 3)),
        "b": rng.uniform(20, 40, 4),
        "u": rng.normal(size=(2, 4, 1, 1)),
        "low": np.float64(0),
        "high": np.float64(6),
    }
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[n, 3, 12, 12] x) => (float[a, k] y) '
        "{ c = Conv (x, w) r = Clip (c, low, high) d = Conv (r, v, b) e = Conv (d, u) "
        "y = Flatten (e) }"
    )
    for name, array in given.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(array), name))
    files = {name: tmp_path / f"model.{name}.onnx" for name in ("float", "int8", "partial")}
    onnx.save(model, files["float"])
    for name in ("int8", "partial"):
        static_file(files["float"], files[name], **FOR_TENSORRT)
    x = images(8, seed=3)
    checks = lower_qdq(files, "onnxruntime", Example({"x": x}), lambda: [{"x": x}])
    assert all(check.rms < check.quantization_rms for check in checks.values())
    assert kinds(files["int8"].with_name("model.int8.onnxruntime.onnx"))["QLinearConv"] == 2


def test_files_with_most_output_pairs_need_no_lowering(
    files: dict[str, Path], tmp_path: Path
) -> None:
    assert lacks_output_pairs(files["int8"])
    assert not lacks_output_pairs(static_file(files["float"], tmp_path / "q.onnx"))
    assert not lacks_output_pairs(files["float"])
    wide = {**FOR_TENSORRT, "activation_type": QuantType.QInt16}
    assert not lacks_output_pairs(static_file(files["float"], tmp_path / "w.onnx", **wide))


def test_a_file_that_is_wrong_once_lowered_is_refused_or_left_out(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Outputs are then clipped to a hundredth of what they reach.
    monkeypatch.setattr(
        module,
        "activation_ranges",
        lambda *_, **__: {f"c{number}": (-0.01, 0.01) for number in range(9)},
    )
    x = images(8, seed=3)
    with pytest.raises(ExportError, match="Expected outputs of model.int8.onnxruntime.onnx to"):
        lower_qdq(files, "onnxruntime", Example({"x": x}), lambda: [{"x": x}])
    reasons: dict[str, str] = {}
    assert (
        lower_qdq(files, "onnxruntime", Example({"x": x}), lambda: [{"x": x}], left_out=reasons)
        == {}
    )
    assert set(reasons) == {"model.int8.onnxruntime.onnx", "model.partial.onnxruntime.onnx"}
    assert all(reason.startswith("not written: Expected") for reason in reasons.values())
    assert not list(files["int8"].parent.glob("*.onnxruntime.onnx"))


def test_a_file_in_fp16_is_not_lowered(tmp_path: Path) -> None:
    """Its pairs give FP16, and the passes write FP32."""
    body = (
        "xq = QuantizeLinear (x, s, z) xd = DequantizeLinear (xq, s, z) "
        "wd = DequantizeLinear (w, s, z) c = Conv (xd, wd) y = Flatten (c)"
    )
    given = {"s": np.float16(0.05), "z": np.int8(0), "w": np.ones((2, 3, 1, 1), np.int8)}
    ports = "(float16[n, 3, 4, 4] x) => (float16[a, k] y)"
    arrays = {name: np.asarray(array) for name, array in given.items()}
    file = qdq_file(tmp_path / "model.partial.onnx", body, arrays, opset=19, ports=ports)
    assert not lacks_output_pairs(file)
    files = dict.fromkeys(("float", "int8", "partial"), file)
    with pytest.raises(
        ExportError,
        match="^Expected pairs in float32 to lower a file for ONNX Runtime, got float16 in "
        "model.partial.onnx; use it as it is, or lower one in float32.$",
    ):
        lower_qdq(files, "onnxruntime", Example({}), list)


def test_a_run_benches_the_lowered_files_of_a_file_made_for_tensorrt(tmp_path: Path) -> None:
    unquantized, file = float_file(tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    static_file(unquantized, file, **FOR_TENSORRT)
    data, out = labelled(unquantized, tmp_path / "data.npz"), tmp_path / "run"
    target = ("--max-drop", "20pt", "--no-recalibrate", "--rounds", "3", "--threads", "1")
    assert verb("run", file, "--data", data, *target, "--out", out) == 0
    bench = json.loads((out / "bench.json").read_text())
    benched = {Path(timing["file"]).name for timing in bench["timings"]}
    assert "model.partial.onnxruntime.onnx" in benched
    assert kinds(out / "model.partial.onnxruntime.onnx")["QLinearConv"] > 0
    assert kinds(out / "model.partial.onnx")["QLinearConv"] == 0, "as the toolkit wrote it"
    assert verb("export", out) == 0
    assert kinds(out / "model.partial.onnxruntime.onnx")["QLinearConv"] > 0


def test_any_qdq_file_is_lowered_for_onnxruntime_if_that_is_asked_for(tmp_path: Path) -> None:
    unquantized, file = float_file(tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    static_file(unquantized, file)
    data, out = labelled(unquantized, tmp_path / "data.npz"), tmp_path / "run"
    assert verb("scan", file, "--data", data, "--out", out) == 0
    assert verb("plan", out, "--max-drop", "20pt", "--no-recalibrate") == 0
    assert verb("export", out, "--for", "onnxruntime") == 0
    lowered = load_model(out / "model.partial.onnxruntime.onnx")
    assert lowered.metadata_props["sensitivity.lowered"] == "onnxruntime"
