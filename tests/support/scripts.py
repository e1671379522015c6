"""Scripts of `benchmarks/` and `examples/`, which stand in no package, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def load_script(file: str | Path) -> ModuleType:
    """The script as a module. file: from the root of the project."""
    path = ROOT / file
    # No import statement finds it under this name: several examples have a `task`.
    name = f"script {path}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def load_benchmark(name: str) -> ModuleType:
    """A script of `benchmarks/`, which finds the others there while it is loaded."""
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return load_script(f"benchmarks/{name}.py")
    finally:
        sys.path.remove(folder)
