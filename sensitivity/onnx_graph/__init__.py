"""Reads, checks and rewrites ONNX graphs, whatever tool wrote them."""
