"""Files that are either written whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from sensitivity.errors import WriteError


def write_whole(path: Path, content: bytes) -> None:
    """Write through a temporary file beside it, so that a reader never sees half of it.

    Makes the folder if there is none. Raises WriteError; what was at `path` before is then still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content)
    except OSError as error:
        raise WriteError(
            f"Expected to write {path}, got: {error.strerror or error}; "
            "free some space or choose another folder with --out."
        ) from error


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
