"""Situations of real users, each a script that makes its own input, runs the command line and says
RIGHT or WRONG."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = os.environ.get("SENSITIVITY_CASES")
SCRIPTS = sorted(Path(FOLDER).glob("[0-9]*.py")) if FOLDER else []
BIN = os.environ.get("SENSITIVITY_BIN", str(Path(sys.executable).parent / "sensitivity"))
"""The `sensitivity` of the interpreter that runs the tests; scripts take its neighbour for their
own children."""


@pytest.mark.skipif(not SCRIPTS, reason="SENSITIVITY_CASES names no folder with scripts of cases")
def test_there_are_cases() -> None:
    assert SCRIPTS


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_case_is_right(script: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(BIN).parent), os.environ.get("PATH", "")])
    variables = os.environ | {
        "SENSITIVITY_BIN": BIN,
        "PATH": path,
        "CASE_DIR": str(tmp_path),
        "SHOW": "",
    }
    done = subprocess.run(
        [sys.executable, script], env=variables, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
