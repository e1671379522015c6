"""Builds of other commits of this project to compare with."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEW = "this build"


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The files of a commit, in a worktree that exists inside the `with`."""
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "tree")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", place, commit], check=True)  # noqa: S603
        try:
            yield Path(place)
        finally:
            subprocess.run([*git, "remove", "--force", place], check=True)  # noqa: S603
