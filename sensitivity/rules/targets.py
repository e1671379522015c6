"""What a file can be judged for. Apart, so that the command line can name them without importing
ONNX."""

from __future__ import annotations

TENSORRT = ("tensorrt-8.6", "tensorrt-10", "tensorrt-11")
RTX = "tensorrt-rtx"
TARGETS = (*TENSORRT, RTX, "openvino", "onnxruntime")
