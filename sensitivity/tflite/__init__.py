"""Converts a .tflite file to a Q/DQ ONNX file: read with LiteRT's own schema, written operator by
operator.

read -> model (records) -> operators (one function each) -> convert
"""
