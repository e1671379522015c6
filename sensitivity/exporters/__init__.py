"""Exports a calibrated model with a skip-set as verified ONNX files, and derives a file for each
runtime from them."""

from sensitivity.exporters.verification import (
    FileCheck,
    LayerCheck,
    LoweringCheck,
    MetricCheck,
    Verification,
)

__all__ = ["FileCheck", "LayerCheck", "LoweringCheck", "MetricCheck", "Verification"]
