"""Modules that are imported when they are first used, each offered as an attribute of another."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType


def importer(offering: str, modules: Mapping[str, str]) -> Callable[[str], ModuleType]:
    """What the module called `offering` takes for its `__getattr__`.

    modules: attribute -> full name of the module. Using an attribute raises AttributeError for one
    that is not among them, and ModuleNotFoundError where its module is not installed.
    """

    def imported(name: str) -> ModuleType:
        if name not in modules:
            raise AttributeError(f"module {offering!r} has no attribute {name!r}")
        return importlib.import_module(modules[name])

    return imported
