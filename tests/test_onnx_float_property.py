"""For any network and any way to quantize it: float is the network that it was made from, or it is refused by name."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.random_graphs import CHANNELS, SIDE, RandomGraph

from sensitivity.quantizers.onnx_model import OnnxModel
from sensitivity.session import quantized_model

GRAPHS = int(os.environ.get("SENSITIVITY_RANDOM_GRAPHS", "4"))
"""Random networks for each quantizer."""


def inputs(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(4, CHANNELS, SIDE, SIDE)).astype(np.float32)


class Calibration:
    def __init__(self) -> None:
        self._batches = iter([{"x": inputs(1)}])

    def get_next(self) -> Any:
        return next(self._batches, None)


def by_onnxruntime(**options: Any) -> Callable[[Path, Path], None]:
    def quantize(source: Path, path: Path) -> None:
        from onnxruntime.quantization import QuantFormat, quantize_static

        quantize_static(str(source), str(path), Calibration(), quant_format=QuantFormat.QDQ, **options)

    return quantize


def after_preprocessing(source: Path, path: Path) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(source), str(path.with_suffix(".pre.onnx")))
    by_onnxruntime()(path.with_suffix(".pre.onnx"), path)


def by_modelopt(source: Path, path: Path) -> None:
    quantization = pytest.importorskip("modelopt.onnx.quantization", exc_type=ImportError)
    quantization.quantize(str(source), calibration_data={"x": inputs(1)}, output_path=str(path), log_level="ERROR")


def quantizers() -> dict[str, Callable[[Path, Path], None]]:
    from onnxruntime.quantization import QuantType

    return {
        "onnxruntime": by_onnxruntime(),
        "onnxruntime-symmetric": by_onnxruntime(extra_options={"ActivationSymmetric": True}),
        "onnxruntime-per_channel": by_onnxruntime(per_channel=True, activation_type=QuantType.QInt8),
        "onnxruntime-16_bit": by_onnxruntime(activation_type=QuantType.QUInt16),
        "onnxruntime-preprocessed": after_preprocessing,
        "modelopt": by_modelopt,
    }


@pytest.mark.parametrize("quantizer", sorted(quantizers()))
@pytest.mark.parametrize("seed", range(GRAPHS))
def test_float_is_the_network_that_was_quantized(tmp_path: Path, quantizer: str, seed: int) -> None:
    logging.disable(logging.WARNING)
    original = RandomGraph(seed, (13, 17, 21)[seed % 3]).save(tmp_path / "float.onnx")
    quantizers()[quantizer](original, tmp_path / "int8.onnx")
    if not any(node.op_type == "QuantizeLinear" for node in onnx.load(tmp_path / "int8.onnx").graph.node):
        pytest.skip("this tool left all of this network in float")
    source: Any = quantized_model(OnnxModel(tmp_path / "int8.onnx", float_path=original))
    findings = source.float_findings(inputs(2))
    assert [finding.code for finding in findings] == ["float-proved"], findings
    assert source.remaining() == ()
