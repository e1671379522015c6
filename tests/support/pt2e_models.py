"""Models quantized by PT2E, with the grids that ModelOpt's INT8 default has: symmetric, -127 to
127, weights per channel."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

aten = torch.ops.aten
WEIGHTED = {
    aten.conv2d.default: 0,
    aten.conv2d.padding: 0,
    aten.conv_transpose2d.input: 1,
    aten.linear.default: 0,
}
"""Ops with a weight, and the axis of its output channels."""

INPUTS = QuantizationSpec(
    torch.int8, MinMaxObserver, quant_min=-127, quant_max=127, qscheme=torch.per_tensor_symmetric
)


def weights(axis: int) -> QuantizationSpec:
    scheme = torch.per_channel_symmetric
    observer = PerChannelMinMaxObserver.with_args(eps=2**-40)
    return QuantizationSpec(
        torch.int8, observer, quant_min=-127, quant_max=127, qscheme=scheme, ch_axis=axis
    )


class WeightedLayers(Quantizer):
    """Inputs and weights of convolutions and linear layers, and outputs and inputs of what `extra`
    maps ops to.

    extra: op -> (spec of its first inputs, spec of its output), either None.
    """

    def __init__(
        self, inputs: QuantizationSpec = INPUTS, extra: dict[Any, Any] | None = None
    ) -> None:
        self.inputs, self.extra = inputs, extra or {}

    def annotate(self, model: Any) -> Any:
        for node in model.graph.nodes:
            if node.target in WEIGHTED:
                specs = {node.args[0]: self.inputs, node.args[1]: weights(WEIGHTED[node.target])}
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    specs, _annotated=True
                )
            elif node.target in self.extra:
                given, made = self.extra[node.target]
                specs = {arg: given for arg in node.all_input_nodes if given is not None}
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    specs, made, _annotated=True
                )
        return model

    def validate(self, model: Any) -> None:
        """Nothing to check."""


def quantized_by_pt2e(
    model: nn.Module | Callable[[], nn.Module],
    *inputs: Any,
    quantizer: Quantizer | None = None,
    fold: bool = True,
    calibrate: bool = True,
) -> Any:
    """A converted graph module, calibrated on `inputs`, whose batch axis is free."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        free = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
        exported = torch.export.export(model, inputs, dynamic_shapes=free).module()
        prepared = prepare_pt2e(exported, quantizer or WeightedLayers())
        if calibrate:
            prepared(*inputs)
        return convert_pt2e(prepared, fold_quantize=fold)


def without_float_weights(converted: Any) -> Any:
    """The graph without the float weights that folding left in it."""
    read = {str(node.target) for node in converted.graph.find_nodes(op="get_attr")}
    for name in [name for name, _ in converted.named_parameters() if name not in read]:
        path, _, attribute = name.rpartition(".")
        delattr(converted.get_submodule(path), attribute)
    return converted
