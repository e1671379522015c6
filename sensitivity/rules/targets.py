"""Targets of `sensitivity lint`, in a module that does not import ONNX, so that the command line
can name them quickly."""

from __future__ import annotations

TENSORRT = ("tensorrt-8.6", "tensorrt-10", "tensorrt-11")
RTX = "tensorrt-rtx"
RTX_SEEN = "TensorRT-RTX 1.7.1"
"""The version whose parser and builder were observed. Nothing was executed."""
TARGETS = (*TENSORRT, RTX, "openvino", "onnxruntime", "qnn")
