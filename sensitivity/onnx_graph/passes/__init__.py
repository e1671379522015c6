"""Passes over ONNX graphs, each a rewrite with one purpose."""
