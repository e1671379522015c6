"""A .tflite file as a Q/DQ ONNX file: read by LiteRT's own schema, written operator by operator.

read -> model (records) -> operators (one function each) -> convert
"""
