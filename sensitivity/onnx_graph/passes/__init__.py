"""Rewrites of an ONNX graph, each with one purpose."""
