"""Workers that are processes of this machine.

Each is a new Python interpreter that receives work through its own socket. Unlike children of
`multiprocessing`, it does not import the main script again.
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
"""Seconds that a process may take to end before it is killed."""
TAIL = 2000
"""Bytes at the end of a dead worker's output that are read."""


class LocalWorker:
    """One process. Its stderr is kept to report how it died, and otherwise not shown, since the
    main process prints the same."""

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
        with suppress(Lost):  # `reply` raises it again
            self.give(start)

    def give(self, work: object) -> None:
        """Send a piece of work. Raises Lost."""
        try:
            self.connection.send(work)
        except OSError as error:
            raise Lost(self._end()) from error

    def reply(self) -> Reply:
        """Receive the reply. Raises Lost."""
        try:
            replied: Reply = self.connection.recv()
        except (EOFError, OSError) as error:
            raise Lost(self._end()) from error
        return replied

    def stop(self) -> None:
        """Terminate the process, and kill it if it does not end."""
        self.connection.close()
        self._process.terminate()
        try:
            self._process.wait(ENDED_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._printed.close()

    def _end(self) -> str:
        """Return how the process ended, and the last line that it printed."""
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
    """Starts processes on this machine."""

    def __init__(self, count: int) -> None:
        self.shared = count

    def start(self, start: Start) -> LocalWorker:
        """Start a new process."""
        return LocalWorker(start)

    def ready(self, workers: Sequence[LocalWorker]) -> list[LocalWorker]:
        """Return the workers whose socket has something to read or is closed."""
        by_connection = {id(worker.connection): worker for worker in workers}
        readable = connection.wait([worker.connection for worker in workers])
        return [by_connection[id(ready)] for ready in readable]

    def close(self) -> None:
        """Do nothing: the workers share nothing."""


def serve(descriptor: int) -> None:
    """Reply to the start and then to each piece of work from this socket, until its other end is
    closed."""
    # Control-C reaches the whole process group. Only the main process reacts, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = connection.Connection(descriptor)
    with suppress(EOFError, ConnectionError):  # the main process has ended
        server = Server(line.recv())
        line.send(server.began())
        while True:
            line.send(server.reply(line.recv()))
