"""Models quantized with pytorch-quantization: the real package where it can be imported, else the
stand-in."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

try:
    from pytorch_quantization import nn as quant_nn
    from pytorch_quantization import quant_modules
    from pytorch_quantization.tensor_quant import QuantDescriptor
except ImportError:  # also the placeholder of the registry
    for name in [name for name in sys.modules if name.partition(".")[0] == "pytorch_quantization"]:
        del sys.modules[name]
    sys.path.insert(0, str(Path(__file__).parents[1] / "standins"))
    from pytorch_quantization import nn as quant_nn
    from pytorch_quantization import quant_modules
    from pytorch_quantization.tensor_quant import QuantDescriptor

__all__ = ["QuantDescriptor", "calibrate", "quant_nn", "quantized_by_pq", "quantizers_of"]


def quantized_by_pq(
    build: Callable[[], nn.Module],
    *inputs: Any,
    like: nn.Module | None = None,
    transposed_axis: int = 1,
) -> nn.Module:
    """The model made with quantized layers, with the weights of `like`, calibrated on `inputs`.

    transposed_axis: of the scales of transposed convolutions; 0 is the toolkit's default, and
    cannot be exported.
    """
    transposed = quant_nn.QuantConvTranspose2d
    default = transposed.default_quant_desc_weight
    transposed.set_default_quant_desc_weight(QuantDescriptor(axis=transposed_axis))
    quant_modules.initialize()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build().eval()
    finally:
        quant_modules.deactivate()
        transposed.set_default_quant_desc_weight(default)
    if like is not None:
        model.load_state_dict(like.state_dict())
    calibrate(model, *inputs)
    return model


def calibrate(model: nn.Module, *inputs: Any) -> None:
    for quantizer in quantizers_of(model).values():
        quantizer.disable_quant()
        quantizer.enable_calib()
    with torch.no_grad():
        model(*inputs)
    for quantizer in quantizers_of(model).values():
        quantizer.load_calib_amax()
        quantizer.enable_quant()
        quantizer.disable_calib()


def quantizers_of(model: nn.Module) -> dict[str, Any]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, quant_nn.TensorQuantizer)
    }
