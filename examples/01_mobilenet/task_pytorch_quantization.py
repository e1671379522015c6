"""The same model and data as task.py, calibrated by NVIDIA's pytorch-quantization as its users do
it."""

import torch
from mobilenet import MobileNet
from pytorch_quantization import nn as quant_nn
from pytorch_quantization import quant_modules
from task import float_model, parts

from sensitivity.tasks.base import Task
from sensitivity.tasks.classification import ImageBatches, classification_task


def task() -> Task:
    calib, splits = parts()
    return classification_task(calibrated(calib), splits)


def calibrated(calib: ImageBatches) -> torch.nn.Module:
    """INT8: weights per channel, activations per tensor, max ranges."""
    state = float_model().state_dict()
    quant_modules.initialize()
    try:
        model = MobileNet().eval()
    finally:
        quant_modules.deactivate()
    model.load_state_dict(state)
    quantizers = [
        module for module in model.modules() if isinstance(module, quant_nn.TensorQuantizer)
    ]
    for quantizer in quantizers:
        quantizer.disable_quant()
        quantizer.enable_calib()
    with torch.no_grad():
        for inputs, _ in calib:
            model(inputs)
    for quantizer in quantizers:
        quantizer.load_calib_amax()
        quantizer.disable_calib()
        quantizer.enable_quant()
    return model
