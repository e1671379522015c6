"""Quantizers of ONNX files, by name: each makes a Q/DQ file of a random network's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.random_graphs import CHANNELS, SIDE


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

        quantize_static(
            str(source), str(path), Calibration(), quant_format=QuantFormat.QDQ, **options
        )

    return quantize


def after_preprocessing(source: Path, path: Path) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(source), str(path.with_suffix(".pre.onnx")))
    by_onnxruntime()(path.with_suffix(".pre.onnx"), path)


def by_modelopt(source: Path, path: Path, **options: Any) -> None:
    quantization = pytest.importorskip("modelopt.onnx.quantization", exc_type=ImportError)
    quantization.quantize(
        str(source),
        calibration_data={"x": inputs(1)},
        output_path=str(path),
        log_level="ERROR",
        **options,
    )


def quantizers() -> dict[str, Callable[[Path, Path], None]]:
    from onnxruntime.quantization import QuantType

    return {
        "onnxruntime": by_onnxruntime(),
        "onnxruntime-symmetric": by_onnxruntime(extra_options={"ActivationSymmetric": True}),
        "onnxruntime-per_channel": by_onnxruntime(
            per_channel=True, activation_type=QuantType.QInt8
        ),
        "onnxruntime-16_bit": by_onnxruntime(activation_type=QuantType.QUInt16),
        "onnxruntime-preprocessed": after_preprocessing,
        "modelopt": by_modelopt,
    }
