"""Workers that are processes of this machine.

Each is a new Python, which gets its work through a socket of its own. Nothing of the program that
leads is run again in it, in contrast to `multiprocessing`, whose children import the main script.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import connection
from typing import IO

from sensitivity.executors.base import Lost, Reply, Server, Start

BEGIN = "import sys; sys.path[:] = {}; from sensitivity.executors import local; local.serve({})"
ENDED_S = 5.0
"""How long a process may take to end before it is killed."""
TAIL = 2000
"""Bytes of what a worker printed that are read when it has died."""


class LocalWorker:
    """One process. What it prints is kept to tell how it died: the process that leads prints the
    same."""

    def __init__(self, start: Start) -> None:
        ours, theirs = socket.socketpair()
        self._printed: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this Python itself
                [sys.executable, "-c", BEGIN.format(sys.path, theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._printed,
            )
        self.connection: connection.Connection = connection.Connection(ours.detach())
        with suppress(Lost):  # told by `reply`
            self.give(start)

    def give(self, work: object) -> None:
        """Send it. Raises Lost."""
        try:
            self.connection.send(work)
        except OSError as error:
            raise Lost(self._end()) from error

    def reply(self) -> Reply:
        """Receive it. Raises Lost."""
        try:
            replied: Reply = self.connection.recv()
        except (EOFError, OSError) as error:
            raise Lost(self._end()) from error
        return replied

    def stop(self) -> None:
        """Terminate the process, and kill it where that does not help."""
        self.connection.close()
        self._process.terminate()
        try:
            self._process.wait(ENDED_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._printed.close()

    def _end(self) -> str:
        """How the process ended, and the last line that it printed."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDED_S)
        code = self._process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        size = self._printed.seek(0, os.SEEK_END)
        self._printed.seek(max(0, size - TAIL))
        lines = self._printed.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"it ended with {how}" + (f" and printed: {last}" if last else "")


class LocalExecutor:
    """Processes of this machine."""

    def __init__(self, count: int) -> None:
        self.shared = count

    def start(self, start: Start) -> LocalWorker:
        """A new process."""
        return LocalWorker(start)

    def ready(self, workers: Sequence[LocalWorker]) -> list[LocalWorker]:
        """Those whose sockets have something to read, or are closed."""
        by_connection = {id(worker.connection): worker for worker in workers}
        found = connection.wait([worker.connection for worker in workers])
        return [by_connection[id(each)] for each in found]

    def close(self) -> None:
        """Nothing is shared by the workers."""


def serve(descriptor: int) -> None:
    """Reply to the start and then to each piece of work that comes through this socket, until it
    is closed at its other end."""
    # Control-C reaches the whole group of processes: who leads ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = connection.Connection(descriptor)
    with suppress(EOFError, ConnectionError):  # who leads has ended
        server = Server(line.recv())
        line.send(server.began())
        while True:
            line.send(server.reply(line.recv()))
