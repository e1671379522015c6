"""The pairs of QuantizeLinear and DequantizeLinear of an ONNX file as quantizers."""
