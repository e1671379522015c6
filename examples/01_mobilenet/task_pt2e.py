"""The same model and data as task.py, quantized by PyTorch's own flow: torch.export, prepare_pt2e,
convert_pt2e."""

from typing import Any

import torch
from task import float_model, parts
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

from sensitivity.tasks.base import Task
from sensitivity.tasks.classification import ImageBatches, classification_task

WEIGHTED = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
# symmetric around 0: the scale is amax / 127, as TensorRT has it
RANGE = {"quant_min": -127, "quant_max": 127}


class Int8(Quantizer):
    """Inputs of convolutions and linear layers per tensor, weights per channel, both symmetric."""

    inputs = QuantizationSpec(
        torch.int8, MinMaxObserver, qscheme=torch.per_tensor_symmetric, **RANGE
    )
    weights = QuantizationSpec(
        torch.int8,
        # The observer's own smallest scale, 1e-7, is larger than channels that BatchNorm made tiny.
        PerChannelMinMaxObserver.with_args(eps=2**-40),
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        **RANGE,
    )

    def annotate(self, model: Any) -> Any:
        for node in model.graph.nodes:
            if node.target in WEIGHTED:
                specs = {node.args[0]: self.inputs, node.args[1]: self.weights}
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    specs, _annotated=True
                )
        return model

    def validate(self, model: Any) -> None:
        """Nothing to check."""


def task() -> Task:
    calib, splits = parts()
    return classification_task(calibrated(calib), splits)


def calibrated(calib: ImageBatches) -> torch.nn.Module:
    example, _ = next(iter(calib))
    free_batch = ({0: torch.export.Dim("batch", min=2)},)
    exported = torch.export.export(float_model(), (example,), dynamic_shapes=free_batch).module()
    prepared = prepare_pt2e(exported, Int8())
    with torch.no_grad():
        for inputs, _ in calib:
            prepared(inputs)
    return convert_pt2e(prepared)
