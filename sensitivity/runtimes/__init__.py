"""Runtimes that build and run a file: TensorRT, TensorRT-RTX, ONNX Runtime and OpenVINO."""
