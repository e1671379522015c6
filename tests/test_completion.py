"""What a shell completes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from sensitivity.cli.main import VERBS, group
from sensitivity.registry import names

ROOT = Path(__file__).parents[1]


def completed(*words: str) -> list[str]:
    """What the last word may become."""
    shell = ShellComplete(group, {}, "sensitivity", "_SENSITIVITY_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


def test_verbs_options_and_choices_are_completed() -> None:
    assert completed("") == list(VERBS)
    assert completed("yolo", "") == ["run"]
    assert completed("plan", "--max") == ["--max-drop"]
    assert completed("run", "--unit", "") == ["layer", "group", "quantizer"]


def test_names_of_the_registry_are_completed() -> None:
    assert completed("run", "--runtime", "") == list(names("runtimes"))
    assert completed("run", "--signal", "b") == ["boxes"]


def test_a_wrong_file_of_options_does_not_disturb() -> None:
    assert completed("--config", "no.toml", "comp") == ["compare"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_with_the_line_of_the_documents(tmp_path: Path) -> None:
    page = (ROOT / "docs/automation.md").read_text()
    setup = next(line for line in page.splitlines() if "bash_source" in line)
    command = tmp_path / "sensitivity"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sensitivity "$@"\n')
    command.chmod(0o755)
    paths = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    script = (
        f"{setup}\nCOMP_WORDS=(sensitivity pl); COMP_CWORD=1; _sensitivity_completion sensitivity\n"
        'echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], env=os.environ | paths, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "plan", done.stderr
