"""`TensorQuantizer` with all of its switches, and layers that hold quantizers."""

import torch
from torch import nn
from torch.nn import functional

from pytorch_quantization import calib
from pytorch_quantization import tensor_quant as tq


class Clip(nn.Module):
    """Learned bounds."""

    def __init__(self, low, high):
        super().__init__()
        self.clip_value_min = nn.Parameter(torch.tensor(float(low)))
        self.clip_value_max = nn.Parameter(torch.tensor(float(high)))

    def forward(self, inputs):
        return torch.clamp(inputs, self.clip_value_min, self.clip_value_max)


class TensorQuantizer(nn.Module):
    _enable_onnx_export = False
    use_fb_fake_quant = False

    def __init__(
        self,
        quant_desc=tq.QUANT_DESC_8BIT_PER_TENSOR,
        disabled=False,
        if_quant=True,
        if_calib=False,
    ):
        super().__init__()
        for setting in (
            "num_bits",
            "fake_quant",
            "axis",
            "scale_amax",
            "learn_amax",
            "unsigned",
            "narrow_range",
        ):
            setattr(self, f"_{setting}", getattr(quant_desc, setting))
        self._scale = 1.0 if quant_desc.fake_quant else None
        self._disabled, self._if_quant, self._if_clip, self._if_calib = (
            disabled,
            if_quant,
            False,
            if_calib,
        )
        if quant_desc.amax is not None:
            self.register_buffer("_amax", torch.tensor(quant_desc.amax))
        if self._learn_amax:
            start = 1.0 if quant_desc.amax is None else quant_desc.amax
            self.clip = Clip(-start, start)
            self.enable_clip()
        self._calibrator = calib.MaxCalibrator(self._num_bits, self._axis, self._unsigned)

    @property
    def amax(self):
        return getattr(self, "_amax", None)

    @amax.setter
    def amax(self, value):
        if self.amax is None:
            self.register_buffer("_amax", torch.as_tensor(value))
        elif self._amax.shape != torch.as_tensor(value).shape:
            raise RuntimeError("Changing shape when setting amax is not allowed.")
        else:
            self._amax.copy_(torch.as_tensor(value))

    def disable(self):
        self._disabled = True

    def enable(self):
        self._disabled = False

    def disable_quant(self):
        self._if_quant = False

    def enable_quant(self):
        self._if_quant = True

    def disable_calib(self):
        self._if_calib = False

    def enable_calib(self):
        self._if_calib = True

    def disable_clip(self):
        self._switch_clip(False)

    def enable_clip(self):
        self._switch_clip(True)

    def _switch_clip(self, on):
        self._if_clip = on
        self.clip.clip_value_min.requires_grad = self.clip.clip_value_max.requires_grad = on

    def load_calib_amax(self):
        found = self._calibrator.compute_amax()
        if found is None:
            raise RuntimeError("Calibrator returned None: it has not seen any tensor.")
        if self.amax is None:
            self.register_buffer("_amax", found)
        else:
            self._amax.copy_(found)

    def init_learn_amax(self):
        self.clip.clip_value_min.data.copy_(-self._amax.max())
        self.clip.clip_value_max.data.copy_(self._amax.max())

    def _range(self, inputs):
        amax = self.amax
        if amax is None:  # taken from what comes, silently
            seen = calib.MaxCalibrator(self._num_bits, self._axis, self._unsigned)
            seen.collect(inputs)
            amax = seen.compute_amax()
        return amax.detach() if self._scale_amax is None else amax.detach() * self._scale_amax

    def forward(self, inputs):
        if self._disabled:
            return inputs
        if self._if_calib:
            self._calibrator.collect(inputs)
        if not self._if_quant:
            return self.clip(inputs) if self._if_clip else inputs
        if self._learn_amax:
            inputs = self.clip(inputs)
            amax = torch.max(-self.clip.clip_value_min, self.clip.clip_value_max).detach()
        else:
            amax = self._range(inputs)
        if self._fake_quant:
            return tq.fake_tensor_quant(
                inputs, amax, self._num_bits, self._unsigned, self._narrow_range
            )
        quantized, self._scale = tq.integers(inputs, amax, self._num_bits, self._unsigned)
        return quantized


class _Quantized:
    """Layers with `_input_quantizer` and `_weight_quantizer`; both can be described by keyword, or
    for the class."""

    default_quant_desc_input = tq.QUANT_DESC_8BIT_PER_TENSOR
    default_quant_desc_weight = tq.QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL

    def __init__(self, *args, **kwargs):
        given = [
            kwargs.pop(f"quant_desc_{which}", getattr(self, f"default_quant_desc_{which}"))
            for which in _WHICH
        ]
        super().__init__(*args, **kwargs)
        for which, descriptor in zip(_WHICH, given, strict=True):
            setattr(self, f"_{which}_quantizer", TensorQuantizer(descriptor))

    @classmethod
    def set_default_quant_desc_input(cls, value):
        cls.default_quant_desc_input = value

    @classmethod
    def set_default_quant_desc_weight(cls, value):
        cls.default_quant_desc_weight = value

    @property
    def input_quantizer(self):
        return self._input_quantizer

    @property
    def weight_quantizer(self):
        return self._weight_quantizer


_WHICH = ("input", "weight")


def _pair(value):
    return value if isinstance(value, tuple) else (value, value)


class QuantConv2d(_Quantized, nn.modules.conv._ConvNd):
    """As in the toolkit, not a `torch.nn.Conv2d`: what looks for that class does not find it."""

    def __init__(
        self,
        inputs,
        outputs,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        **kwargs,
    ):
        sizes = [_pair(value) for value in (kernel_size, stride, padding, dilation)]
        super().__init__(inputs, outputs, *sizes, False, _pair(0), groups, bias, "zeros", **kwargs)

    def forward(self, input):  # noqa: A002
        x, weight = self._input_quantizer(input), self._weight_quantizer(self.weight)
        return functional.conv2d(
            x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class QuantConvTranspose2d(_Quantized, nn.modules.conv._ConvTransposeNd):
    default_quant_desc_weight = tq.QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL

    def __init__(
        self,
        inputs,
        outputs,
        kernel_size,
        stride=1,
        padding=0,
        groups=1,
        bias=True,
        dilation=1,
        **kwargs,
    ):
        sizes = [_pair(value) for value in (kernel_size, stride, padding, dilation)]
        super().__init__(inputs, outputs, *sizes, True, _pair(0), groups, bias, "zeros", **kwargs)

    def forward(self, input):  # noqa: A002
        x, weight = self._input_quantizer(input), self._weight_quantizer(self.weight)
        settings = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return functional.conv_transpose2d(x, weight, self.bias, *settings)


class QuantLinear(_Quantized, nn.Linear):
    default_quant_desc_weight = tq.QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW

    def forward(self, input):  # noqa: A002
        return functional.linear(
            self._input_quantizer(input), self._weight_quantizer(self.weight), self.bias
        )


class QuantLSTM(nn.Module):
    """[time, batch, input_size] -> ([time, batch, hidden_size], None). One quantizer of each kind
    for each layer, which sees inputs beside hidden state, and both weight matrices side by side."""

    def __init__(self, input_size, hidden_size, num_layers=1):
        super().__init__()
        self.hidden_size = hidden_size
        sizes = [input_size, *[hidden_size] * (num_layers - 1)]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(4 * hidden_size, n + hidden_size) / 3) for n in sizes
        )
        self._input_quantizers = nn.ModuleList(
            TensorQuantizer(tq.QUANT_DESC_8BIT_PER_TENSOR) for _ in sizes
        )
        self._weight_quantizers = nn.ModuleList(
            TensorQuantizer(tq.QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW) for _ in sizes
        )

    def forward(self, input, hx=None):  # noqa: A002
        steps = list(input)
        for weights, x_quantizer, w_quantizer in zip(
            self.weights, self._input_quantizers, self._weight_quantizers, strict=True
        ):
            matrix = w_quantizer(weights)
            hidden = cell = input.new_zeros(input.shape[1], self.hidden_size)
            for time, step in enumerate(steps):
                gates = functional.linear(x_quantizer(torch.cat([step, hidden], 1)), matrix).chunk(
                    4, 1
                )
                cell = torch.sigmoid(gates[1]) * cell + torch.sigmoid(gates[0]) * torch.tanh(
                    gates[2]
                )
                steps[time] = hidden = torch.sigmoid(gates[3]) * torch.tanh(cell)
        return torch.stack(steps), None
