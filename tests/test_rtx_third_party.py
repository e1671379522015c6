"""Files of other quantizers: lint for tensorrt-rtx, which builds nothing, agrees with NVIDIA's
builder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports a PyTorch model")
pytest.importorskip("onnxruntime", reason="quantizes with ONNX Runtime")

from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # noqa: E402
from support.onnx_quantizers import by_onnxruntime  # noqa: E402
from support.random_graphs import RandomGraph  # noqa: E402

from sensitivity.rules.lint import run_lint  # noqa: E402
from sensitivity.rules.targets import RTX  # noqa: E402
from sensitivity.runtimes import tensorrt_rtx_build as rtx  # noqa: E402
from sensitivity.timing.engine_structure import structure_of  # noqa: E402

ROOT = Path(__file__).parents[1]
real = pytest.mark.skipif(rtx.unavailable() is not None, reason=str(rtx.unavailable()))
IN_FLOAT = {"SQ206", "SQ212", "SQ301", "SQ307"}
"""Findings for layers that RTX runs in float though their weight is quantized."""


class Mixed(torch.nn.Module):
    """Convolutions, a residual, a Concat, a pooling, a transposed convolution and a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.second = torch.nn.Conv2d(16, 16, 3, padding=1)
        self.third = torch.nn.Conv2d(32, 16, 3, padding=1)
        self.up = torch.nn.ConvTranspose2d(16, 16, 2, 2)
        self.head = torch.nn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        first = torch.relu(self.first(x))
        added = torch.relu(self.second(first) + first)
        pooled = torch.nn.functional.max_pool2d(added, 3, 1, 1)
        third = self.third(torch.cat([added, pooled], 1))
        return self.head(self.up(third * torch.sigmoid(third)).mean((2, 3)))


IMAGES = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)


class Calibration:
    def __init__(self) -> None:
        self._batches = iter([{"x": IMAGES}])

    def get_next(self) -> Any:
        return next(self._batches, None)


def export(model: Any, path: Path) -> Path:
    images = torch.from_numpy(IMAGES)
    torch.onnx.export(
        model.eval(), (images,), str(path), input_names=["x"], opset_version=17, dynamo=False
    )
    return path


@pytest.fixture(scope="module")
def in_float(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return export(Mixed(), tmp_path_factory.mktemp("float") / "float.onnx")


SIGNED = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True}
FLOAT_BIAS = {**SYMMETRIC, "QuantizeBias": False}
SETTINGS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "default": ({}, {"SQ102", "SQ302"}),
    "per_channel": ({"per_channel": True}, {"SQ102", "SQ302"}),
    "S8S8-symmetric": ({**SIGNED, "extra_options": SYMMETRIC}, {"SQ302"}),
    "S8S8-float_bias": ({**SIGNED, "extra_options": FLOAT_BIAS}, set()),
    "S8S8-float_bias-per_channel": (
        {**SIGNED, "per_channel": True, "extra_options": FLOAT_BIAS}, set()),
    "reduce_range": (
        {**SIGNED, "per_channel": True, "reduce_range": True, "extra_options": FLOAT_BIAS}, set()),
    "float_bias": ({"extra_options": {"QuantizeBias": False}}, {"SQ102"}),
    "uint8-weights": (
        {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8,
         "extra_options": FLOAT_BIAS}, {"SQ102", "SQ104"}),
    "16_bit": ({"activation_type": QuantType.QInt16, "weight_type": QuantType.QInt8,
                "extra_options": FLOAT_BIAS}, {"SQ104"}),
    "operator": ({"quant_format": QuantFormat.QOperator}, {"SQ002", "SQ102"}),
}  # fmt: skip
"""Options of ONNX Runtime's quantizer, and errors that its file must have among others, which is
none exactly where the file builds."""


@pytest.fixture(params=SETTINGS)
def quantized(
    request: pytest.FixtureRequest, in_float: Path, tmp_path: Path
) -> tuple[Path, set[str]]:
    options, errors = SETTINGS[request.param]
    path = tmp_path / "int8.onnx"
    options = {"quant_format": QuantFormat.QDQ, **options}
    quantize_static(str(in_float), str(path), Calibration(), **options)
    return path, errors


def errors_of(file: Path) -> set[str]:
    return {finding.code for finding in run_lint(file, RTX) if finding.severity == "error"}


def agree(file: Path) -> None:
    """The builder makes an engine exactly if lint has no error, and leaves in float the layers that
    lint names."""
    made = rtx.build(file)
    assert made.ok == (errors_of(file) == set()), made.problem
    if not made.ok:
        return
    said = {finding.node for finding in run_lint(file, RTX) if finding.code in IN_FLOAT}
    layers = structure_of(made, file).layers
    assert {layer.layer for layer in layers if not layer.as_planned} == said


def test_lint_says_what_is_wrong_with_files_of_onnxruntime(
    quantized: tuple[Path, set[str]],
) -> None:
    file, errors = quantized
    found = errors_of(file)
    assert errors <= found
    assert bool(errors) == bool(found)
    assert "SQ307" in {finding.code for finding in run_lint(file, RTX)} or "SQ002" in found


@real
def test_lint_and_the_builder_agree_on_files_of_onnxruntime(
    quantized: tuple[Path, set[str]],
) -> None:
    agree(quantized[0])


@real
@pytest.mark.parametrize("seed", [0, 1, 7, 14])
def test_they_agree_on_random_networks(seed: int, tmp_path: Path) -> None:
    source = RandomGraph(seed, 17).save(tmp_path / "float.onnx")
    quantize = by_onnxruntime(**SIGNED, per_channel=seed % 2 == 1, extra_options=FLOAT_BIAS)
    quantize(source, tmp_path / "int8.onnx")
    assert errors_of(tmp_path / "int8.onnx") == set()
    agree(tmp_path / "int8.onnx")


@real
def test_they_agree_on_an_export_of_modelopt_for_pytorch(tmp_path: Path) -> None:
    quantization = pytest.importorskip("modelopt.torch.quantization")
    torch.manual_seed(0)
    model = quantization.quantize(
        Mixed().eval(),
        quantization.INT8_DEFAULT_CFG,
        lambda model: model(torch.from_numpy(IMAGES)),
    )
    file = export(model, tmp_path / "int8.onnx")
    assert errors_of(file) == set()
    agree(file)


@real
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_they_agree_on_files_of_modelopt_for_onnx(
    precision: str, in_float: Path, tmp_path: Path
) -> None:
    quantization = pytest.importorskip("modelopt.onnx.quantization", exc_type=ImportError)
    file = tmp_path / "int8.onnx"
    quantization.quantize(
        str(in_float),
        quantize_mode="int8",
        calibration_data={"x": IMAGES},
        calibration_eps=["cpu"],
        high_precision_dtype=precision,
        output_path=str(file),
        log_level="ERROR",
    )
    assert errors_of(file) == set()
    agree(file)


@real
def test_they_agree_on_a_file_of_tf2onnx() -> None:
    file = ROOT / "examples" / "05_keras_qat" / "digits_qat.onnx"
    assert errors_of(file) == {"SQ102", "SQ104"}
    agree(file)
