"""A lock that lets one command at a time work in a run directory, and says which one holds it.

The operating system holds the lock for a process and releases it when the process ends, however
that happens: a file left behind by a killed process locks nothing. The contents of the file are
only for those who find it locked.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sensitivity.errors import RunDirError, WriteError

if sys.platform != "win32":
    import fcntl

NAME = ".lock"
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors of a file system without locks. Nothing is checked there."""

_held: dict[Path, str] = {}
"""Lock file held by this process -> contents of the file. The operating system would give the same
process the lock twice, and release it as soon as either file was closed."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the run directory inside the `with`.

    Makes the directory if there is none, and removes it again if nothing was written into it. A
    path that is not a directory is left for the caller to refuse.

    Raises RunDirError if another command holds the lock, and WriteError if nothing can be written.
    """
    if folder.exists() and not folder.is_dir():
        yield
        return
    made = [directory for directory in (folder, *folder.parents) if not directory.exists()]
    try:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with _claimed(folder.resolve() / NAME):
            yield
    finally:
        for directory in made:
            with suppress(OSError):  # it is not empty, or could not be made
                directory.rmdir()


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    if _held.setdefault(path, owner) is not owner:
        raise _in_use(path, _held[path])
    try:
        with _writing(path.parent):
            file = _acquired(path)
        try:
            with _writing(path.parent):
                os.ftruncate(file, 0)
                os.write(file, owner.encode())
            yield
        finally:
            with suppress(FileNotFoundError):  # removing the folder removed the lock too
                path.unlink()
            os.close(file)
    finally:
        del _held[path]


def _acquired(path: Path) -> int:
    """Return the open lock file, with its lock held by this process.

    Raises RunDirError if another process holds it.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _is_ours(file):
            owner = os.read(file, 1000).decode()
            os.close(file)
            raise _in_use(path, owner)
        if _is_at(path, file):
            return file
        os.close(file)  # the previous holder removed the file after it was opened here


def _is_ours(file: int) -> bool:
    """Return whether the operating system gave this process the lock of the file."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno not in WITHOUT_LOCKS:
            raise
    return True


def _is_at(path: Path, file: int) -> bool:
    return path.exists() and os.path.samestat(os.fstat(file), path.stat())


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"Expected to write to {folder}, got {error.strerror or error}; free some space, allow "
            "writing there, or choose another --out."
        ) from error


def _in_use(path: Path, owner: str) -> RunDirError:
    return RunDirError(
        f"Expected one command at a time in {path.parent}, got a second one while {_who(owner)} is "
        "at work there; wait until it has ended, or choose another --out."
    )


def _who(owner: str) -> str:
    """Return who holds the lock, in words.

    >>> _who('{"pid": 7, "host": "box", "since": "2026-01-02 03:04:05"}')
    'process 7 on host box (since 2026-01-02 03:04:05)'
    >>> _who("")
    'another process'
    """
    try:
        process = json.loads(owner)
    except ValueError:  # the holder has not written the file yet
        return "another process"
    return f"process {process['pid']} on host {process['host']} (since {process['since']})"
