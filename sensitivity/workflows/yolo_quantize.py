"""A float YOLO to a calibrated one: INT8 by ModelOpt where TensorRT runs INT8, and nowhere else."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any

import numpy as np

from sensitivity import optional
from sensitivity.config import CalibrationMethod
from sensitivity.errors import MissingPackage
from sensitivity.quantizers.ranges import lowest_divergence, lowest_error

PERCENTILE = 99.99
STRIDE = 8
"""Bins between the ranges that are tried for entropy, of 2,048: 1/256 of the range apart."""

LEVELS = 127
RESIDUAL = "residual_quantizer"


def quantized(
    model: Any, batches: Iterable[Any], *, method: CalibrationMethod = "max", dfl: bool = False
) -> Any:
    """The model quantized in place and calibrated.

    Weights get a range per output channel, inputs of convolutions and linear layers one for the
    tensor. Pooling, activations, attention's products and the decoding of boxes stay float. The
    input that a shortcut adds shares the quantizer of the convolution that reads it too, so that
    the Add can run in INT8.
    batches: inputs float32[n, 3, h, w] that no split holds. dfl: quantize the convolution in DFL
    too.
    """
    try:
        import modelopt.torch.quantization as mtq
    except ImportError:
        raise MissingPackage("nvidia-modelopt", "quantizing a YOLO", "yolo") from None

    inputs = list(batches)

    def forward(model: Any) -> None:
        for batch in inputs:
            model(batch)

    with optional.torch.no_grad():
        model = mtq.quantize(
            model, config(method, dfl), forward if method == "max" else None
        ).eval()
        if method != "max":
            _calibrate(model, forward, method)
    share_residual_quantizers(model)
    return model


def config(method: CalibrationMethod, dfl: bool) -> dict[str, Any]:
    """ModelOpt's configuration of these rules."""
    calibrator = "max" if method == "max" else "histogram"
    rules: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    # The output channels of a transposed convolution are the second axis of its weight.
    for kind, axis in {"nn.Conv2d": 0, "nn.ConvTranspose2d": 1, "nn.Linear": 0}.items():
        weight, given = (
            {"num_bits": 8, "axis": axis},
            {"num_bits": 8, "axis": None, "calibrator": calibrator},
        )
        rules.append({"quantizer_name": "*weight_quantizer", "parent_class": kind, "cfg": weight})
        rules.append({"quantizer_name": "*input_quantizer", "parent_class": kind, "cfg": given})
    if not dfl:
        rules.append({"quantizer_name": "*.dfl.*", "enable": False})
    return {"quant_cfg": rules, "algorithm": "max" if method == "max" else None}


def _calibrate(model: Any, forward: Any, method: CalibrationMethod) -> None:
    """Ranges of inputs from histograms, of weights by their largest value."""
    from modelopt.torch.quantization.calib import HistogramCalibrator
    from modelopt.torch.quantization.model_calib import enable_stats_collection

    enable_stats_collection(model)
    forward(model)
    for quantizer in _quantizers(model):
        if isinstance(quantizer._calibrator, HistogramCalibrator):
            quantizer.amax = _range(quantizer._calibrator, method)
        else:
            quantizer.load_calib_amax()
        quantizer.enable_quant()
        quantizer.disable_calib()


def _range(calibrator: Any, method: CalibrationMethod) -> Any:
    """Amax from a histogram of absolute values. ModelOpt 0.47's own search by squared error is at
    fault, and that by entropy is slow; see `ranges`."""
    if method == "percentile":
        return calibrator.compute_amax(method, percentile=PERCENTILE)
    counts, edges = (
        np.asarray(each, np.float64)
        for each in (calibrator._calib_hist, calibrator._calib_bin_edges)
    )
    if method == "mse":
        amax = lowest_error(counts, edges, LEVELS)
    else:
        amax = lowest_divergence(counts, edges, LEVELS, stride=STRIDE)
    return optional.torch.tensor(amax, dtype=optional.torch.float32)


def _quantizers(model: Any) -> list[Any]:
    from modelopt.torch.quantization.nn import TensorQuantizer

    return [
        module
        for module in model.modules()
        if isinstance(module, TensorQuantizer) and not module._disabled
    ]


def share_residual_quantizers(model: Any) -> tuple[str, ...]:
    """Quantize the input that each shortcut adds with the quantizer of the convolution that reads
    the same input.

    TensorRT runs an Add in INT8 only where both of its inputs are quantized; one scale for both
    readers of a tensor costs no requantization. Only ultralytics' `Bottleneck` and its kin: x +
    cv2(cv1(x)). Returns their names.
    """
    found = []
    for name, module in model.named_modules():
        kin = any(base.__name__ == "Bottleneck" for base in type(module).__mro__)
        reader = getattr(
            getattr(getattr(module, "cv1", None), "conv", None), "input_quantizer", None
        )
        if kin and module.add and reader is not None:
            module.add_module(RESIDUAL, reader)
            module.forward = types.MethodType(_residual_forward, module)
            found.append(name)
    return tuple(found)


def _residual_forward(block: Any, x: Any) -> Any:
    return block.residual_quantizer(x) + block.cv2(block.cv1(x))
