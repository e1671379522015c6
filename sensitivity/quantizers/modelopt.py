"""Models fake-quantized by NVIDIA ModelOpt (`modelopt.torch.quantization`).

The quantizers are told by their class name, so ModelOpt itself is never imported here: a model that holds one has
imported it already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import ModelError, unknown_name
from sensitivity.records import Grid, Quantizer, Role

FLAGS = ("_disabled", "_if_quant", "_if_calib", "_fake_quant", "_dequantize", "_enable_pre_quant_scale", "_input_dtype")
"""Every switch of a TensorQuantizer, and the one attribute that a disabled one writes in its forward."""

SETTINGS = (
    *("_num_bits", "_axis", "_unsigned", "_narrow_range", "_dynamic", "_block_sizes", "_use_constant_amax", "_rotate"),
    *("_bias", "backend", "_disabled", "_if_quant", "_if_calib", "_fake_quant", "_enable_pre_quant_scale"),
)
"""What, next to its buffers, decides the values a TensorQuantizer gives."""

CONTAINERS = {"SequentialQuantizer", "GroupedQuantizer"}
SMALLEST_AMAX = 2.0**-24
"""ModelOpt (`tensor_quant._tensor_quant`) replaces every value of a channel by 0 where amax is not above this."""


class ModelOptModel:
    """A model quantized by ModelOpt, seen as a `QuantizedModel`.

    A quantizer's layer is the module that holds it; its role comes from the attribute's name, and every name but
    `..weight_quantizer` and `..output_quantizer` is an input. One quantizer under two names is listed once, under the
    first. Raises ModelError where the model has no enabled quantizer.
    """

    source = "modelopt"

    def __init__(self, model: Any) -> None:
        self.model = model
        modules = dict(model.named_modules()) if hasattr(model, "named_modules") else {}
        self._all = {name: module for name, module in modules.items() if _is_a(module, "TensorQuantizer")}
        enabled = {name: module for name, module in self._all.items() if _is_enabled(module)}
        if not enabled:
            found = f"{len(self._all)} quantizers, all disabled" if self._all else "a model without any"
            raise ModelError(
                f"Expected at least one enabled ModelOpt quantizer, got {found}; quantize the model with "
                "modelopt.torch.quantization.quantize(model, config, forward_loop) first."
            )
        self._enabled = enabled
        self.quantizers = tuple(_quantizer(name, module, modules) for name, module in enabled.items())

    @staticmethod
    def recognises(model: Any) -> bool:
        """Whether the model holds ModelOpt quantizers, enabled or not."""
        return hasattr(model, "modules") and any(_is_a(module, "TensorQuantizer") for module in model.modules())

    @contextmanager
    def disabled(self, names: Iterable[str]) -> Iterator[None]:
        wanted = set(names)
        for name in sorted(wanted - self._enabled.keys()):
            raise unknown_name("a quantizer's name", name, self._enabled)
        before = {
            name: {flag: vars(module)[flag] for flag in FLAGS if flag in vars(module)}
            for name, module in self._all.items()
        }
        try:
            for name, module in self._enabled.items():
                module._disabled = name in wanted
                module._if_calib = False  # a quantizer that still collects would be changed by being measured
            yield
        finally:
            for name, flags in before.items():
                vars(self._all[name]).update(flags)

    def grid(self, name: str) -> Grid:
        if name not in self._enabled:
            raise unknown_name("a quantizer's name", name, self._enabled)
        module = self._enabled[name]
        reason = _not_an_integer_grid(module) or _problem(module)
        if reason:
            raise ModelError(
                f"Expected {name} to quantize to one integer grid, got a quantizer that does not: {reason}."
            )
        amax = _amax(module)
        high = 2 ** (module._num_bits - 1 + int(module._unsigned)) - 1
        low = 0 if module._unsigned else -high if module._narrow_range else -high - 1
        scale = amax.reshape(-1) / np.float32(high)
        return Grid(scale=scale, zero_point=0, low=low, high=high, axis=_axis(module))

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, module in self.model.named_modules(remove_duplicate=False):
            digest.update(f"{name}:{type(module).__name__}\n".encode())
        for name, module in self._all.items():
            settings = [(setting, getattr(module, setting, None)) for setting in SETTINGS]
            digest.update(f"{name}:{settings}\n".encode())
        # Not state_dict(): buffers that are not persistent change the outputs too.
        for kind in (self.model.named_parameters(), self.model.named_buffers()):
            for name, tensor in kind:
                digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
                digest.update(_bytes(tensor))
        return digest.hexdigest()


def _is_a(module: Any, kind: str) -> bool:
    return any(base.__name__ == kind and base.__module__.startswith("modelopt.") for base in type(module).__mro__)


def _is_enabled(module: Any) -> bool:
    # Interrupted calibration leaves quantization off and collecting on: not the user's choice, so it is listed.
    return not module._disabled and (module._if_quant or module._if_calib)


def _quantizer(name: str, module: Any, modules: dict[str, Any]) -> Quantizer:
    layer, _, attribute = name.rpartition(".")
    while layer and any(_is_a(modules[layer], container) for container in CONTAINERS):
        layer, _, attribute = layer.rpartition(".")
    bits = module._num_bits if isinstance(module._num_bits, int) else 1 + sum(module._num_bits)
    problem = _problem(module) or _wrong_axis(module, _role(attribute), modules[layer])
    return Quantizer(name, layer, _role(attribute), bits, _axis(module), problem)


def _wrong_axis(module: Any, role: Role, layer: Any) -> str | None:
    """ModelOpt's own configurations give every weight axis 0, which in a transposed convolution is the axis that the
    kernel sums over: no engine can take scales out of that sum."""
    names = {base.__name__ for base in type(layer).__mro__}
    transposed = bool(names & {"ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"})
    if role != "weight" or not transposed or _axis(module) in (None, 1):
        return None
    return (
        f"its scales run along axis {_axis(module)}, and the output channels of a ConvTranspose are axis 1; give "
        "ModelOpt's quant_cfg {'quantizer_name': '*weight_quantizer', 'parent_class': 'nn.ConvTranspose2d', 'cfg': "
        "{'num_bits': 8, 'axis': 1}} behind its other entries"
    )


def _role(attribute: str) -> Role:
    if attribute.endswith(("weight_quantizer", "weight_quantizers")):
        return "weight"
    return "output" if attribute.endswith("output_quantizer") else "input"


def _axis(module: Any) -> int | None:
    """The channel axis, from 0; None for per tensor, and for grids with more than one axis."""
    axis: int | tuple[int, ...] | None = module._axis
    if isinstance(axis, (tuple, list)):
        axis = axis[0] if len(axis) == 1 else None
    if axis is None or axis >= 0:
        return axis
    amax = getattr(module, "_amax", None)
    return axis if amax is None else axis + int(amax.ndim)


def _amax(module: Any) -> NDArray[np.float32]:
    return np.asarray(module._amax.detach().float().cpu().numpy(), dtype=np.float32)


def _problem(module: Any) -> str | None:
    if not module._if_quant:
        return "it was left in calibration mode, with quantization off"
    if module._dynamic or getattr(module, "_use_constant_amax", False) or module.is_mx_format:
        return None
    if getattr(module, "_amax", None) is None:
        # ModelOpt would take the range of each batch instead, silently.
        return "amax is missing"
    amax = _amax(module)
    faults = {
        "not finite": ~np.isfinite(amax),
        "negative": amax < 0,
        "0": amax == 0,
        "at most 2^-24, which ModelOpt treats as 0": (amax > 0) & (amax <= SMALLEST_AMAX),
    }
    found = [_describe(fault, where) for fault, where in faults.items() if where.any()]
    return "; ".join(found) or None


def _describe(fault: str, where: NDArray[np.bool_]) -> str:
    return f"amax is {fault}" if where.size == 1 else f"amax of {int(where.sum())} of {where.size} channels is {fault}"


def _not_an_integer_grid(module: Any) -> str | None:
    reasons = {
        f"its number format is {module._num_bits}": not isinstance(module._num_bits, int),
        f"it quantizes blocks of {module._block_sizes}": module._block_sizes is not None,
        "its range is taken from each batch": bool(module._dynamic),
        "it multiplies by a pre-quantization scale": module.pre_quant_scale is not None,
        "it rotates its input": bool(module.rotate_is_enabled),
        f"it uses the backend {module.backend!r}": module.backend is not None,
        "it subtracts a bias": getattr(module, "_bias", None) is not None,
        "it stores real quantized values": not module._fake_quant,
        "it has more than one channel axis": isinstance(module._axis, (tuple, list)) and len(module._axis) > 1,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _bytes(tensor: Any) -> bytes:
    import torch

    return bytes(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
