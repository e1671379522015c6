"""Requirements of runtimes on Q/DQ ONNX files, as rules with a reason, a fix, a source and two
examples each."""
