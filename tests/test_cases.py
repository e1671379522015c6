"""Situations of real users. Each is a script that makes its own input, runs the command line and
prints RIGHT or WRONG."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

FOLDER = os.environ.get("SENSITIVITY_CASES")
SCRIPTS = sorted(Path(FOLDER).glob("[0-9]*.py")) if FOLDER else []
BIN = os.environ.get("SENSITIVITY_BIN")
"""The `sensitivity` to test in place of the one that the tests start. Scripts take the `python`
beside it for their own children."""


@pytest.mark.skipif(not SCRIPTS, reason="SENSITIVITY_CASES names no folder with scripts of cases")
def test_there_are_cases() -> None:
    assert SCRIPTS


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_case_is_right(script: Path, warm_bin: Path, tmp_path: Path) -> None:
    command = Path(BIN or warm_bin / "sensitivity")
    path = os.pathsep.join([str(command.parent), os.environ.get("PATH", "")])
    variables = os.environ | {
        "SENSITIVITY_BIN": str(command),
        "PATH": path,
        "CASE_DIR": str(tmp_path),
        "SHOW": "",
    }
    done = subprocess.run(
        [warm_bin / "python", script], env=variables, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
