"""Situations of real users, each a script that makes its own input, runs the command line and says
RIGHT or WRONG."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.warm import warm

FOLDER = os.environ.get("SENSITIVITY_CASES")
SCRIPTS = sorted(Path(FOLDER).glob("[0-9]*.py")) if FOLDER else []
BIN = os.environ.get("SENSITIVITY_BIN")
"""A `sensitivity` to test in place of the one that the tests start; scripts take its neighbour for
their own children."""


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if BIN:
        yield Path(BIN)
        return
    with warm(tmp_path_factory.mktemp("bin")) as path:
        yield path


@pytest.mark.skipif(not SCRIPTS, reason="SENSITIVITY_CASES names no folder with scripts of cases")
def test_there_are_cases() -> None:
    assert SCRIPTS


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_case_is_right(script: Path, command: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(command.parent), os.environ.get("PATH", "")])
    variables = os.environ | {
        "SENSITIVITY_BIN": str(command),
        "PATH": path,
        "CASE_DIR": str(tmp_path),
        "SHOW": "",
    }
    done = subprocess.run(
        [sys.executable, script], env=variables, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
