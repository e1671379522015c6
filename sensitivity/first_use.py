"""Modules that are imported on first use, each offered as an attribute of another module."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType


def importer(offering: str, modules: Mapping[str, str]) -> Callable[[str], ModuleType]:
    """Return a function that the module `offering` can use as its `__getattr__`.

    modules: attribute -> full name of the module.
    Using an attribute raises AttributeError if it is not in `modules`, and ModuleNotFoundError if
    its module is not installed.
    """

    def imported(name: str) -> ModuleType:
        if name not in modules:
            raise AttributeError(f"module {offering!r} has no attribute {name!r}")
        return importlib.import_module(modules[name])

    return imported
