"""What builds and runs a file: TensorRT, TensorRT-RTX, ONNX Runtime and OpenVINO."""
