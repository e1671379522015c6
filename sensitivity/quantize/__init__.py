"""Quantizes a float ONNX file to a calibrated Q/DQ file.

This step comes before all others, for users who have no calibrated model yet.
"""
