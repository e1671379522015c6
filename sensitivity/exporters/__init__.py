"""From a calibrated model and a skip-set to verified ONNX files, and from those to files for each
runtime."""

from sensitivity.exporters.verification import (
    FileCheck,
    LayerCheck,
    LoweringCheck,
    MetricCheck,
    Verification,
)

__all__ = ["FileCheck", "LayerCheck", "LoweringCheck", "MetricCheck", "Verification"]
