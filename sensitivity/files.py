"""Files that are written completely or not at all, and JSON with a checksum of itself."""

from __future__ import annotations

import os
import re
import zlib
from contextlib import suppress
from pathlib import Path

from sensitivity.errors import WriteError

CHECKSUM = re.compile(rb',\n  "checksum": "([0-9a-f]{8})"\n\}\n\Z')


def with_checksum(text: bytes) -> bytes:
    """Return a JSON object, indented by two, with a checksum of itself as the last key."""
    body = text.rstrip().removesuffix(b"}").rstrip()
    return body + b',\n  "checksum": "%08x"\n}\n' % zlib.crc32(body)


def is_as_written(content: bytes) -> bool:
    """Return whether no byte has changed since `with_checksum`; True if there is no checksum."""
    found = CHECKSUM.search(content)
    return found is None or zlib.crc32(content[: found.start()]) == int(found[1], 16)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file through a temporary one beside it, so that no reader sees a partial file.

    Makes the folder if there is none. Raises WriteError; the previous contents of `path` are then
    still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content)
    except OSError as error:
        raise WriteError(
            f"Expected to write {path}, got: {error.strerror or error}; "
            "free some space or choose another folder with --out."
        ) from error


def sync_folder(path: Path) -> None:
    """Wait until the names in the folder are on disk, if the operating system supports it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
