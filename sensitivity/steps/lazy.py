"""Modules of the steps that import ONNX or draw figures, each imported on first use.

Importing them takes more than half a second, and `plan` for another target needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensitivity.first_use import importer

if TYPE_CHECKING:
    from sensitivity.exporters import torch_model
    from sensitivity.onnx_task import reading as onnx_reading
    from sensitivity.onnx_task import task_file
    from sensitivity.preflight import check as preflight
    from sensitivity.preflight import export as check_export
    from sensitivity.preflight import file as check_file
    from sensitivity.quantize import file as quantize_file
    from sensitivity.quantize import findings as quantize_findings
    from sensitivity.quantize import prepare as quantize_prepare
    from sensitivity.repairs import onnx_equalization
    from sensitivity.reporting import compare_page, html
    from sensitivity.steps import (
        apply,
        bench,
        config,
        cost_model,
        distributions,
        dry_run,
        export,
        forecast,
        netron,
    )
    from sensitivity.tflite import convert as tflite
    from sensitivity.units import graph

    __all__ = [
        "apply",
        "bench",
        "check_export",
        "check_file",
        "compare_page",
        "config",
        "cost_model",
        "distributions",
        "dry_run",
        "export",
        "forecast",
        "graph",
        "html",
        "netron",
        "onnx_equalization",
        "onnx_reading",
        "preflight",
        "quantize_file",
        "quantize_findings",
        "quantize_prepare",
        "task_file",
        "tflite",
        "torch_model",
    ]

__getattr__ = importer(
    __name__,
    {
        "apply": "sensitivity.steps.apply",
        "bench": "sensitivity.steps.bench",
        "check_export": "sensitivity.preflight.export",
        "check_file": "sensitivity.preflight.file",
        "compare_page": "sensitivity.reporting.compare_page",
        "config": "sensitivity.steps.config",
        "distributions": "sensitivity.steps.distributions",
        "dry_run": "sensitivity.steps.dry_run",
        "export": "sensitivity.steps.export",
        "forecast": "sensitivity.steps.forecast",
        "graph": "sensitivity.units.graph",
        "html": "sensitivity.reporting.html",
        "netron": "sensitivity.steps.netron",
        "onnx_equalization": "sensitivity.repairs.onnx_equalization",
        "onnx_reading": "sensitivity.onnx_task.reading",
        "preflight": "sensitivity.preflight.check",
        "cost_model": "sensitivity.steps.cost_model",
        "quantize_file": "sensitivity.quantize.file",
        "quantize_findings": "sensitivity.quantize.findings",
        "quantize_prepare": "sensitivity.quantize.prepare",
        "task_file": "sensitivity.onnx_task.task_file",
        "tflite": "sensitivity.tflite.convert",
        "torch_model": "sensitivity.exporters.torch_model",
    },
)
