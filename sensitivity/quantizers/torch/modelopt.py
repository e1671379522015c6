"""Models fake-quantized by NVIDIA ModelOpt (`modelopt.torch.quantization`)."""

from __future__ import annotations

from typing import Any

from sensitivity.quantizers.torch.tensor_quantizer import TensorQuantizerModel, is_a

FLAGS = (
    "_disabled",
    "_if_quant",
    "_if_calib",
    "_fake_quant",
    "_dequantize",
    "_enable_pre_quant_scale",
    "_input_dtype",
)
"""Every switch of a TensorQuantizer, and the one attribute that a disabled one writes in its
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
"""What, next to its buffers, decides the values a TensorQuantizer gives."""

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
        "'nn.ConvTranspose2d', 'cfg': {'num_bits': 8, 'axis': 1}} behind its other entries"
    )
    flags = FLAGS
    settings = SETTINGS

    def _is_container(self, module: Any) -> bool:
        return any(is_a(module, container, self.package) for container in CONTAINERS)

    def _is_fixed(self, module: Any) -> bool:
        return not (
            module._dynamic or getattr(module, "_use_constant_amax", False) or module.is_mx_format
        )

    def _format(self, module: Any) -> str:
        sizes = [
            size
            for axis, size in (module._block_sizes or {}).items()
            if isinstance(axis, int) and size
        ]
        return super()._format(module) + (f" in blocks of {sizes[0]}" if len(sizes) == 1 else "")

    def _not_an_integer_grid(self, module: Any) -> str | None:
        reasons = {
            f"its number format is {module._num_bits}": not isinstance(module._num_bits, int),
            f"it quantizes blocks of {module._block_sizes}": module._block_sizes is not None,
            "its range is taken from each batch": bool(module._dynamic),
            "it multiplies by a pre-quantization scale": module.pre_quant_scale is not None,
            "it rotates its input": bool(module.rotate_is_enabled),
            f"it uses the backend {module.backend!r}": module.backend is not None,
            "it subtracts a bias": getattr(module, "_bias", None) is not None,
            "it stores real quantized values": not module._fake_quant,
            "it has more than one channel axis": isinstance(module._axis, (tuple, list))
            and len(module._axis) > 1,
        }
        return next((reason for reason, holds in reasons.items() if holds), None)
