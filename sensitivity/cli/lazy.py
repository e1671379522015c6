"""Modules that verbs need and `--help` does not, each imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensitivity.first_use import importer

if TYPE_CHECKING:
    from rich import console as console
    from rich import markup as markup
    from rich import table as table

    from sensitivity import allocator as allocator
    from sensitivity import api as api
    from sensitivity import doctor as doctor
    from sensitivity import run_dir as run_dir
    from sensitivity.cli import config_file as config_file
    from sensitivity.cli import forecast as forecast
    from sensitivity.cli import progress as progress
    from sensitivity.cli import render as render
    from sensitivity.exporters import facts as facts
    from sensitivity.onnx_graph import well_formed as well_formed
    from sensitivity.reporting import compare as compare
    from sensitivity.rules import lint as lint
    from sensitivity.rules import sarif as sarif
    from sensitivity.runtimes import tensorrt_rtx_build as tensorrt_rtx_build
    from sensitivity.timing import engine_structure as engine_structure
    from sensitivity.workflows import demo as demo
    from sensitivity.workflows import yolo as yolo

__getattr__ = importer(
    __name__,
    {
        "allocator": "sensitivity.allocator",
        "api": "sensitivity.api",
        "compare": "sensitivity.reporting.compare",
        "config_file": "sensitivity.cli.config_file",
        "console": "rich.console",
        "demo": "sensitivity.workflows.demo",
        "doctor": "sensitivity.doctor",
        "engine_structure": "sensitivity.timing.engine_structure",
        "facts": "sensitivity.exporters.facts",
        "forecast": "sensitivity.cli.forecast",
        "lint": "sensitivity.rules.lint",
        "markup": "rich.markup",
        "progress": "sensitivity.cli.progress",
        "render": "sensitivity.cli.render",
        "run_dir": "sensitivity.run_dir",
        "sarif": "sensitivity.rules.sarif",
        "table": "rich.table",
        "tensorrt_rtx_build": "sensitivity.runtimes.tensorrt_rtx_build",
        "well_formed": "sensitivity.onnx_graph.well_formed",
        "yolo": "sensitivity.workflows.yolo",
    },
)
