"""What is read out of an ONNX graph, whoever wrote it."""
