"""How a tensor is quantized: the descriptor, and symmetric fake quantization by the largest
absolute value."""

from dataclasses import dataclass

import torch

TINY = 2.0**-24


@dataclass(frozen=True)
class QuantDescriptor:
    """axis: the axes that keep a range of their own, None for one range. amax: given instead of
    calibrated."""

    num_bits: int = 8
    axis: int | tuple[int, ...] | None = None
    amax: float | list[float] | None = None
    fake_quant: bool = True
    unsigned: bool = False
    narrow_range: bool = False
    learn_amax: bool = False
    scale_amax: float | None = None
    calib_method: str = "max"


QUANT_DESC_8BIT_PER_TENSOR = QuantDescriptor()
QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL = QuantDescriptor(axis=(0))
QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL = QuantDescriptor(axis=0)
QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW = QuantDescriptor(axis=(0,))


def integers(inputs, amax, num_bits=8, unsigned=False, narrow_range=True):
    """The integers as floats, and what to divide them by. Channels with no range to speak of become
    0."""
    if unsigned and inputs.min() < 0:
        raise TypeError("Negative values encountered in unsigned quantization.")
    if amax.min() < 0:
        raise ValueError("Negative values in amax")
    high = torch.tensor(2.0 ** (num_bits - 1 + int(unsigned)) - 1.0, device=amax.device)
    low = 0 if unsigned else -high if narrow_range else -high - 1
    scale, empty = high / amax, amax <= TINY
    quantized = torch.clamp((inputs.float() * scale.masked_fill(empty, 0)).round_(), low, high)
    return quantized.to(inputs.dtype), scale.masked_fill(empty, 1)


def fake_tensor_quant(inputs, amax, num_bits=8, unsigned=False, narrow_range=True):
    quantized, scale = integers(inputs, amax, num_bits, unsigned, narrow_range)
    return quantized / scale.to(inputs.dtype)
