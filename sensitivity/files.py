"""Files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from sensitivity.errors import WriteError


def write_whole(file: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises WriteError; an older file then stays as it was."""
    fresh = file.with_name(f".{file.name}.new")
    try:
        fresh.write_bytes(content)
        os.replace(fresh, file)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise WriteError(f"Expected to write {file}, got {error.strerror or error}; free some space or choose another --out.") from error
