"""Scripts of `benchmarks/` and `examples/`, which are in no package, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def load_script(file: str | Path) -> ModuleType:
    """The script as a module. file: from the root of the project.

    Several examples have a `task`: what one imports is found by that one alone.
    """
    path = ROOT / file
    name = f"script {path}"  # no import statement finds it
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    folders = list(sys.path)
    others = _forget_examples()
    sys.path.insert(0, str(path.parent))  # as when Python runs it
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = folders
        _forget_examples()
        sys.modules |= others
    return module


def _forget_examples() -> dict[str, ModuleType]:
    """Drop the modules that import statements found in `examples/`. Returns them."""
    folder = str(ROOT / "examples")
    found = {
        name: module
        for name, module in sys.modules.items()
        if name.isidentifier() and (getattr(module, "__file__", None) or "").startswith(folder)
    }
    for name in found:
        del sys.modules[name]
    return found
