"""Quantizes and calibrates a float YOLO with ModelOpt, in INT8 where TensorRT runs INT8 and nowhere
else."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any

import numpy as np

from sensitivity import optional
from sensitivity.config import CalibrationMethod
from sensitivity.quantizers.ranges import lowest_divergence, lowest_error
from sensitivity.workflows.modelopt import quantize

PERCENTILE = 99.99
"""Per cent of the absolute values that the range of the percentile method covers."""

STRIDE = 8
"""Bins between two ranges that the entropy method tries, out of 2,048: 1/256 of the full range."""

CHANNEL_AXES = {"nn.Conv2d": 0, "nn.ConvTranspose2d": 1, "nn.Linear": 0}
"""Class of a layer -> the axis of its weight that holds the output channels."""

LEVELS = 127
"""Positive levels of symmetric INT8."""

RESIDUAL = "residual_quantizer"
"""The attribute of a block that quantizes the input which its shortcut adds."""


def quantized(
    model: Any, batches: Iterable[Any], *, method: CalibrationMethod = "max", dfl: bool = False
) -> Any:
    """Quantize a model in place, calibrate it, and return it.

    Weights get one scale per output channel; the inputs of convolutions and linear layers get one
    scale per tensor. Pooling, activation functions, the matrix products of attention and the
    decoding of boxes stay float. The input that a shortcut adds shares the quantizer of the
    convolution that also reads it, so that the Add can run in INT8.

    model: the float model, in eval mode.
    batches: inputs float32[n, 3, h, w] to calibrate with, of images that no split holds.
    method: how the ranges of activations are found.
    dfl: whether to quantize the convolution in DFL too.
    Raises MissingPackage without ModelOpt.
    """
    inputs = list(batches)

    def forward(model: Any) -> None:
        for batch in inputs:
            model(batch)

    calibrates = method == "max"
    with optional.torch.no_grad():
        model = quantize(model, config(method, dfl), forward if calibrates else None)
        if not calibrates:
            _calibrate(model, forward, method)
    share_residual_quantizers(model)
    return model


def config(method: CalibrationMethod, dfl: bool) -> dict[str, Any]:
    """Return ModelOpt's configuration of the rules that `quantized` describes."""
    calibrator = "max" if method == "max" else "histogram"
    rules: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    for kind, axis in CHANNEL_AXES.items():
        per_channel = {"num_bits": 8, "axis": axis}
        per_tensor = {"num_bits": 8, "axis": None, "calibrator": calibrator}
        rules += [
            {"quantizer_name": "*weight_quantizer", "parent_class": kind, "cfg": per_channel},
            {"quantizer_name": "*input_quantizer", "parent_class": kind, "cfg": per_tensor},
        ]
    if not dfl:
        rules.append({"quantizer_name": "*.dfl.*", "enable": False})
    return {"quant_cfg": rules, "algorithm": "max" if method == "max" else None}


def _calibrate(model: Any, forward: Any, method: CalibrationMethod) -> None:
    """Set the ranges of inputs from histograms, and those of weights to their largest values."""
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
    """Return the largest absolute value (amax) of the range, from a histogram of absolute values.

    The search by squared error of ModelOpt 0.47 is faulty, and its search by entropy is slow; see
    `ranges`.
    """
    if method == "percentile":
        return calibrator.compute_amax(method, percentile=PERCENTILE)
    counts = np.asarray(calibrator._calib_hist, np.float64)
    edges = np.asarray(calibrator._calib_bin_edges, np.float64)
    if method == "mse":
        amax = lowest_error(counts, edges, LEVELS)
    else:
        amax = lowest_divergence(counts, edges, LEVELS, stride=STRIDE)
    return optional.torch.tensor(amax, dtype=optional.torch.float32)


def _quantizers(model: Any) -> list[Any]:
    """Return the enabled quantizers of the model."""
    from modelopt.torch.quantization.nn import TensorQuantizer

    return [
        module
        for module in model.modules()
        if isinstance(module, TensorQuantizer) and not module._disabled
    ]


def share_residual_quantizers(model: Any) -> tuple[str, ...]:
    """Quantize the input that each shortcut adds with the quantizer of the convolution that reads
    the same input, and return the names of the blocks that were changed.

    TensorRT runs an Add in INT8 only if both of its inputs are quantized, and one scale for all
    readers of a tensor needs no requantization. Only ultralytics' `Bottleneck` and its subclasses
    are changed, which compute x + cv2(cv1(x)).
    """
    changed = []
    for name, module in model.named_modules():
        is_bottleneck = any(base.__name__ == "Bottleneck" for base in type(module).__mro__)
        if not is_bottleneck or not module.add:
            continue
        first_conv = getattr(getattr(module, "cv1", None), "conv", None)
        quantizer = getattr(first_conv, "input_quantizer", None)
        if quantizer is not None:
            module.add_module(RESIDUAL, quantizer)
            module.forward = types.MethodType(_residual_forward, module)
            changed.append(name)
    return tuple(changed)


def _residual_forward(block: Any, x: Any) -> Any:
    return block.residual_quantizer(x) + block.cv2(block.cv1(x))
