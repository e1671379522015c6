"""Models fake-quantized by NVIDIA ModelOpt (`modelopt.torch.quantization`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sensitivity import optional
from sensitivity.errors import ModelError
from sensitivity.quantizers.base import first_fault
from sensitivity.quantizers.ranges import E4M3, E4M3_HIGH
from sensitivity.quantizers.torch.modules import named_modules
from sensitivity.quantizers.torch.tensor_quantizer import TensorQuantizerModel, is_a
from sensitivity.records import Grid

FLAGS = (
    "_disabled",
    "_if_quant",
    "_if_calib",
    "_fake_quant",
    "_dequantize",
    "_enable_pre_quant_scale",
    "_input_dtype",
)
"""Every switch of a TensorQuantizer, and the only attribute that a disabled quantizer writes in its
forward."""

SETTINGS = (
    *(
        "_num_bits",
        "_axis",
        "_unsigned",
        "_narrow_range",
        "_dynamic",
        "_block_sizes",
        "_use_constant_amax",
        "_rotate",
    ),
    *(
        "_bias",
        "backend",
        "_disabled",
        "_if_quant",
        "_if_calib",
        "_fake_quant",
        "_enable_pre_quant_scale",
    ),
)
"""The attributes that decide, together with its buffers, which values a TensorQuantizer gives."""

CONTAINERS = ("SequentialQuantizer", "GroupedQuantizer")


class ModelOptModel(TensorQuantizerModel):
    """A model quantized by ModelOpt, seen as a `QuantizedModel`."""

    source = "modelopt"
    toolkit = "ModelOpt"
    how = (
        "quantize the model with modelopt.torch.quantization.quantize(model, config, forward_loop)"
    )
    package = "modelopt"
    calibrators = "modelopt.torch.quantization.calib"
    transposed = (
        "give ModelOpt's quant_cfg {'quantizer_name': '*weight_quantizer', 'parent_class': "
        "'nn.ConvTranspose2d', 'cfg': {'num_bits': 8, 'axis': 1}} after its other entries"
    )
    flags = FLAGS
    settings = SETTINGS

    def __init__(self, model: Any) -> None:
        self._of_each_forward = {
            module: amax
            for layer in named_modules(model).values()
            for module, amax in _ranges_of_each_forward(layer)
        }
        super().__init__(model)

    def _amax(self, module: Any) -> Any:
        stored = super()._amax(module)
        return self._of_each_forward.get(module) if stored is None else stored

    def no_fp8(self) -> str | None:
        return None

    def _is_container(self, module: Any) -> bool:
        return any(is_a(module, container, self.package) for container in CONTAINERS)

    def _is_fixed(self, module: Any) -> bool:
        is_constant = getattr(module, "_use_constant_amax", False)
        return not (module._dynamic or is_constant or module.is_mx_format)

    def _format(self, module: Any) -> str:
        own_format = super()._format(module)
        sizes = _block_sizes(module)
        axes = [axis for axis in sizes if isinstance(axis, int)]
        if len(axes) != 1:
            return own_format
        return f"{own_format} in blocks of {sizes[axes[0]]}"

    def file_grid(self, name: str) -> Grid:
        """Return the grid of a quantizer as an ONNX file can hold it, see
        `quantizers.base.WithFileGrids`."""
        module = self._named(name)
        is_weight = name in self._of_weights
        reason = self._not_in_a_file(module, is_weight=is_weight) or self._problem(module)
        if reason:
            raise ModelError(
                f"Expected {name} to quantize as an ONNX file can hold it, got a quantizer that "
                f"does not: {reason}."
            )
        is_float = _is_float(module)
        low, high = (-E4M3_HIGH, E4M3_HIGH) if is_float else self._bounds(module)
        scale, axis, block = self._scale(name, high), self._axis(module), _block(module)
        if block is not None:
            # The toolkit quantizes the weight as rows of one block each, and pads the last block
            # along the last axis with 0.
            shape = tuple(module._original_shape)
            axis = len(shape) - 1
            scale = scale.reshape(*shape[:-1], shape[-1] // block)
        return Grid(scale, 0, low, high, axis, block, is_float)

    def _not_an_integer_grid(self, module: Any) -> str | None:
        faults = {
            f"its number format is {module._num_bits}": _is_float(module),
            f"it quantizes blocks of {module._block_sizes}": _has_blocks(module),
            "its range is taken from each batch": bool(module._dynamic),
            "it multiplies by a pre-quantization scale": module.pre_quant_scale is not None,
            "it has more than one channel axis": _has_several_axes(module),
        }
        return first_fault(faults) or _unusual(module)

    def _not_in_a_file(self, module: Any, *, is_weight: bool) -> str | None:
        is_other_float = _is_float(module) and tuple(module._num_bits) != E4M3
        has_blocks = _has_blocks(module)
        blocks_fit = is_weight and _block(module) is not None
        faults = {
            "its range is taken from each batch": not self._is_fixed(module),
            f"its number format is {module._num_bits}": is_other_float,
            f"it quantizes blocks of {module._block_sizes}": has_blocks and not blocks_fit,
            "it has more than one channel axis": not has_blocks and _has_several_axes(module),
        }
        return first_fault(faults) or _unusual(module)


def _ranges_of_each_forward(layer: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each later quantizer of a layer's weight that was left without a range, with the range
    that it takes in each forward: the largest value that the quantizers before it give.

    ModelOpt calibrates the second quantizer of an AWQ weight in Linear layers only. The range does
    not change, since the weight does not.
    """
    weight = getattr(layer, "weight", None)
    quantizers: Any = getattr(layer, "weight_quantizer", None)
    if weight is None or not is_a(quantizers, "SequentialQuantizer", ModelOptModel.package):
        return
    first, *later = quantizers
    with optional.torch.no_grad():
        values = first(weight)
        for module in later:
            is_open = getattr(module, "_amax", None) is None and not module._dynamic
            if is_open and module._axis is None and not _has_blocks(module):
                yield module, values.abs().amax()
            values = module(values)


def _is_float(module: Any) -> bool:
    """Return whether the quantized values are floating-point numbers, for which ModelOpt gives two
    numbers of bits."""
    return not isinstance(module._num_bits, int)


def _has_blocks(module: Any) -> bool:
    return module._block_sizes is not None


def _has_several_axes(module: Any) -> bool:
    return isinstance(module._axis, (tuple, list)) and len(module._axis) > 1


def _block_sizes(module: Any) -> dict[Any, Any]:
    """Return the block settings of a quantizer that are not empty.

    An integer key is an axis, and its value the number of values along it that share one scale. A
    string key is the name of another setting.
    """
    sizes = module._block_sizes or {}
    return {key: value for key, value in sizes.items() if value}


def _block(module: Any) -> int | None:
    """Return how many values along the last axis share one scale, or None if there are no blocks,
    or blocks of another kind."""
    sizes = _block_sizes(module)
    if sizes.get("type", "static") != "static" or sizes.keys() - {-1, "type"}:
        return None
    size: int | None = sizes.get(-1)
    return size


def _unusual(module: Any) -> str | None:
    """Return the unusual setting for which a quantizer has no grid at all; None for most
    quantizers."""
    return first_fault(
        {
            "it rotates its input": bool(module.rotate_is_enabled),
            f"it uses the backend {module.backend!r}": module.backend is not None,
            "it subtracts a bias": getattr(module, "_bias", None) is not None,
            "it stores real quantized values": not module._fake_quant,
        }
    )
