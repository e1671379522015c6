"""One command at a time in a run directory: a lock that says who holds it.

The system holds the lock for a process, and takes it back when the process ends, however that
happens: the file that a killed one leaves behind locks nothing. What the file says is only for
those who find it locked.
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
"""What a file system answers that knows no locks; nothing is checked there."""

_held: dict[Path, str] = {}
"""Lock of this process -> what its file says. The system would give this process the same lock
twice, and take it back as soon as either was closed."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run directory inside the `with`. Where there is none it is made, and taken away
    again where nothing was written into it.

    Raises RunDirError where another command holds it, WriteError where nothing can be written. A
    path that is no folder is left for others to refuse.
    """
    if folder.exists() and not folder.is_dir():
        yield
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with _claimed(folder.resolve() / NAME):
            yield
    finally:
        for each in made:
            with suppress(OSError):  # something is in it, or it could not be made
                each.rmdir()


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    told = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    if _held.setdefault(path, told) is not told:
        raise _in_use(path, _held[path])
    try:
        with _writing(path.parent):
            file = _acquired(path)
        try:
            with _writing(path.parent):
                os.ftruncate(file, 0)
                os.write(file, told.encode())
            yield
        finally:
            with suppress(FileNotFoundError):  # who took the folder away took the lock too
                path.unlink()
            os.close(file)
    finally:
        del _held[path]


def _acquired(path: Path) -> int:
    """The open file whose lock is ours. Raises RunDirError where another process has it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _is_ours(file):
            told = os.read(file, 1000).decode()
            os.close(file)
            raise _in_use(path, told)
        if _is_at(path, file):
            return file
        os.close(file)  # who held it ended, and took it away, after it was opened here


def _is_ours(file: int) -> bool:
    """Whether the system gave this process the lock of the file."""
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


def _in_use(path: Path, told: str) -> RunDirError:
    return RunDirError(
        f"Expected one command at a time in {path.parent}, got a second one while {_who(told)} is "
        "at work there; wait until it has ended, or choose another --out."
    )


def _who(told: str) -> str:
    """Who has the lock.

    >>> _who('{"pid": 7, "host": "box", "since": "2026-01-02 03:04:05"}')
    'process 7 on host box (since 2026-01-02 03:04:05)'
    >>> _who("")
    'another process'
    """
    try:
        one = json.loads(told)
    except ValueError:  # it has the lock and is about to write
        return "another process"
    return f"process {one['pid']} on host {one['host']} (since {one['since']})"
