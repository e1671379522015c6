"""Benchmarks and examples import only names that the package has; most of them run in no test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [
    str(file.relative_to(ROOT))
    for folder in ("benchmarks", "examples")
    for file in sorted((ROOT / folder).rglob("*.py"))
]


def missing(text: str) -> Iterator[str]:
    """Yield the names that are imported from the package and are not in it."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
            "sensitivity"
        ):
            continue
        module = import_module(node.module)
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            is_package = hasattr(module, "__path__")
            if not hasattr(module, alias.name) and not (is_package and find_spec(name)):
                yield name


@pytest.mark.parametrize("script", SCRIPTS)
def test_names_that_a_script_imports_exist(script: str) -> None:
    assert not list(missing((ROOT / script).read_text()))


def test_a_name_that_is_gone_is_found() -> None:
    text = "from sensitivity.steps.plan import under_each, search_plan\nimport os\n"
    assert list(missing(text)) == ["sensitivity.steps.plan.under_each"]
