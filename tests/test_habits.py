"""Habits of this repository that a reader or a neighbour relies on."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = sorted((ROOT / "tests").glob("test_*.py"))


def modules_imported(file: Path) -> set[str]:
    """The first part of the name of each module that a file imports, also inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
    return found


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_what_tests_share_is_in_support_and_not_in_another_test(file: Path) -> None:
    assert not modules_imported(file) & {test.stem for test in TESTS}
