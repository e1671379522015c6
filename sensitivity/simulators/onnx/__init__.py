"""Variants of an ONNX file, run part by part in ONNX Runtime."""
