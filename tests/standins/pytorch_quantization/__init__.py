"""A stand-in for NVIDIA's pytorch-quantization, whose registry package is a placeholder: its public
classes as its documentation of 2.1 and 2.2 describes them, in as little code as the tests need.
Written for these tests; none of NVIDIA's code is here. What it leaves out: MSE calibration, FP8,
INT8 storage on a GPU, ONNX export of its own.
"""

from pytorch_quantization import calib, nn, quant_modules, tensor_quant

__version__ = "2.2-standin"
__all__ = ["calib", "nn", "quant_modules", "tensor_quant"]
