"""What a runtime needs of a Q/DQ ONNX file, as rules with a reason, a fix, a source and two
examples each."""
