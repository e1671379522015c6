"""Models fake-quantized by NVIDIA's pytorch-quantization 2.x, the predecessor of ModelOpt that YOLO
repositories use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import Any

from sensitivity import optional
from sensitivity.quantizers.base import first_fault
from sensitivity.quantizers.torch.tensor_quantizer import TensorQuantizerModel, array, range_problem

FLAGS = ("_disabled", "_if_quant", "_if_clip", "_if_calib", "_fake_quant", "_scale")
"""Every switch of a TensorQuantizer, and the attribute that it writes in its forward."""

CLASS_FLAGS = ("use_fb_fake_quant", "_enable_onnx_export")
"""Attributes of the class that switch all quantizers at once, in versions 2.1 and 2.2. Code that
exports a model sets them, and an exception in it leaves them set."""

SETTINGS = (
    *(
        "_num_bits",
        "_axis",
        "_unsigned",
        "_narrow_range",
        "_scale_amax",
        "_learn_amax",
        "_fake_quant",
    ),
    *("_disabled", "_if_quant", "_if_clip", "_if_calib", "use_fb_fake_quant"),
)
"""The attributes that decide, together with its buffers, which values a TensorQuantizer gives."""


class PytorchQuantizationModel(TensorQuantizerModel):
    """A model quantized by pytorch-quantization, seen as a `QuantizedModel`.

    Quantizers that were switched off by `disable()`, `disable_quant()` or `_disabled = True` are
    not listed. The amax of a quantizer includes `scale_amax`, or comes from its learned range
    (`learn_amax`).
    """

    source = "pytorch_quantization"
    toolkit = "pytorch-quantization"
    how = (
        "call pytorch_quantization.quant_modules.initialize() before the model is made, and "
        "calibrate it"
    )
    package = "pytorch_quantization"
    calibrators = "pytorch_quantization.calib"
    transposed = (
        "call QuantConvTranspose2d.set_default_quant_desc_weight(QuantDescriptor(axis=1)) "
        "before the model is made"
    )
    flags = FLAGS
    settings = SETTINGS

    def no_fp8(self) -> str | None:
        return (
            "a pytorch-quantization model, whose FP8 is for GPUs alone and is not simulated here; "
            "leave fp8 out, quantize with ModelOpt, or scan the exported Q/DQ file"
        )

    @contextmanager
    def _more_restored(self) -> Iterator[None]:
        with ExitStack() as stack:
            kinds: set[type] = set()
            for module in self._all.values():
                kinds.update(type(module).__mro__)
                # disable_clip() and enable_clip() switch the gradients of learned bounds.
                for bound in _learned(module):
                    stack.callback(bound.requires_grad_, bound.requires_grad)
            for kind, flag in product(kinds, CLASS_FLAGS):
                if flag in vars(kind):
                    stack.callback(setattr, kind, flag, vars(kind)[flag])
            yield

    def _amax(self, module: Any) -> Any:
        if module._learn_amax:
            low, high = _learned(module)
            return optional.torch.maximum(-low.detach(), high.detach())
        amax = getattr(module, "_amax", None)
        if amax is None or module._scale_amax is None:
            return amax
        return amax.detach() * module._scale_amax

    def _bounds(self, module: Any) -> tuple[int, int]:
        low, high = super()._bounds(module)
        if module._learn_amax:  # It clips to +-amax first.
            low = max(low, -high)
        return low, high

    def _problem(self, module: Any) -> str | None:
        problem = super()._problem(module)
        stored = getattr(module, "_amax", None)
        if stored is None or module._learn_amax or not module._if_quant:
            return problem
        # A scale_amax of 0.5 must not hide that the calibrated amax itself is broken.
        return range_problem(array(stored)) or problem

    def _not_an_integer_grid(self, module: Any) -> str | None:
        faults = {
            f"its number format is {module._num_bits}": not isinstance(module._num_bits, int),
            "it multiplies by a pre-quantization scale": _has_pre_quant_scale(module),
            "it gives integers instead of fake-quantized values": not module._fake_quant,
            "it learned a range that is not symmetric": not _is_symmetric(module),
        }
        fault = first_fault(faults)
        amax = self._amax(module)
        if fault or amax is None:
            return fault
        if amax.numel() > 1 and self._axis(module) is None:
            shape = tuple(amax.shape)
            return f"its amax has the shape {shape}, which is not that of one channel axis"
        return None


def _learned(module: Any) -> tuple[Any, ...]:
    """Return the learned lower and upper bound; empty if the range is not learned."""
    if not module._learn_amax:
        return ()
    return module.clip.clip_value_min, module.clip.clip_value_max


def _has_pre_quant_scale(module: Any) -> bool:
    return getattr(module, "pre_quant_scale", None) is not None


def _is_symmetric(module: Any) -> bool:
    """Return whether both bounds of a range are equally far from 0, which only learned bounds may
    not be."""
    if not module._learn_amax:
        return True
    low, high = _learned(module)
    return not bool((-low.detach() != high.detach()).any())
