"""What verbs work with and `--help` does not need, each module imported when it is first used."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich import console as console
    from rich import markup as markup
    from rich import table as table

    from sensitivity import api as api
    from sensitivity import doctor as doctor
    from sensitivity.cli import forecast as forecast
    from sensitivity.cli import progress as progress
    from sensitivity.cli import render as render
    from sensitivity.exporters import facts as facts
    from sensitivity.rules import sarif as sarif
    from sensitivity.timing import engine_structure as engine_structure
    from sensitivity.workflows import demo as demo
    from sensitivity.workflows import yolo as yolo

_MODULES = {
    "api": "sensitivity.api",
    "comparing": "sensitivity.reporting.compare",
    "console": "rich.console",
    "demo": "sensitivity.workflows.demo",
    "doctor": "sensitivity.doctor",
    "engine_structure": "sensitivity.timing.engine_structure",
    "facts": "sensitivity.exporters.facts",
    "forecast": "sensitivity.cli.forecast",
    "linting": "sensitivity.rules.lint",
    "markup": "rich.markup",
    "progress": "sensitivity.cli.progress",
    "render": "sensitivity.cli.render",
    "sarif": "sensitivity.rules.sarif",
    "table": "rich.table",
    "yolo": "sensitivity.workflows.yolo",
}


def __getattr__(name: str) -> ModuleType:
    """The module of this name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(_MODULES[name])
