"""Replaces torch's layers by quantized ones while a model is made."""

import torch

from pytorch_quantization import nn as quant_nn

_FLOAT = {name: getattr(torch.nn, name) for name in ("Conv2d", "ConvTranspose2d", "Linear")}


def initialize(float_module_list=()):
    for name in _FLOAT:
        if name not in (float_module_list or ()):
            setattr(torch.nn, name, getattr(quant_nn, f"Quant{name}"))


def deactivate():
    for name, module in _FLOAT.items():
        setattr(torch.nn, name, module)
