"""Q/DQ pairs of an ONNX file as quantizers."""
