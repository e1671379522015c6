"""A `sensitivity` for tests of whole command lines that does not import torch and ModelOpt anew.

Those imports take eight seconds of a core, several times what most tests compute. One process does
them, and forks a child for each command line: its own memory, folder, environment and exit code.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

IMPORTED = (
    "matplotlib.pyplot",
    "modelopt.torch.export",
    "modelopt.torch.quantization",
    "onnxruntime.quantization",
    "onnxscript",
    "sensitivity.api",
    "sensitivity.runtimes.onnxruntime",
    "sklearn.datasets",
    "torch.export",
    "torch.onnx",
)

CLIENT = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"."], [0, 1, 2])
asked = {{"words": sys.argv, "folder": os.getcwd(), "variables": dict(os.environ)}}
server.sendall(json.dumps(asked).encode())
server.shutdown(socket.SHUT_WR)
sys.exit((server.recv(1) or b"\\x86")[0])
"""
"""What the command line starts; 134 is the exit code of a child that died."""

STARTED_S = 600
"""How long the imports may take on a loaded machine."""


@contextlib.contextmanager
def warm(folder: Path) -> Iterator[Path]:
    """The path of a `sensitivity` in an empty folder, with a `python` beside it; stopped at the
    end."""
    command, address = folder / "sensitivity", folder / "socket"
    for path, text in (
        (command, CLIENT.format(python=sys.executable, address=str(address))),
        (folder / "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n'),
    ):
        path.write_text(text)
        path.chmod(0o755)
    server = subprocess.Popen([sys.executable, __file__, str(address)], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + STARTED_S
        while not address.exists():
            assert server.poll() is None, "the process that imports has ended"
            assert time.monotonic() < end, f"no imports within {STARTED_S} s"
            time.sleep(0.05)
        yield command
    finally:
        server.kill()
        server.wait()


def _serve(address: str) -> None:
    """Import, then fork a child for each client, for ever."""
    sys.path[0] = str(Path(__file__).parents[2])
    os.fsync = os.fstat  # type: ignore[assignment] # as in conftest.py
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what stays is not walked again, nor copied for that, in each child
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address + ".bound")
    listener.listen()
    os.rename(address + ".bound", address)
    while True:
        client, _ = listener.accept()
        _collect()
        if os.fork() == 0:
            listener.close()
            _answer(client)
        client.close()


def _collect() -> None:
    """Wait for the children that have ended, so that their time counts as that of the tests."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _answer(client: socket.socket) -> None:
    """Be the process that the client asked for, tell it the exit code, and end."""
    _, files, _, _ = socket.recv_fds(client, 1, 3)
    for to, file in enumerate(files):
        os.dup2(file, to)
        os.close(file)
    with client.makefile("rb") as sent:
        asked = json.load(sent)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["variables"])
    sys.argv = asked["words"]
    code = _run()
    client.sendall(bytes([code]))
    os._exit(code)


def _run() -> int:
    """The exit code of the command line in `sys.argv`."""
    import atexit

    from sensitivity.cli.main import main

    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - ends as an interpreter does
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    _serve(sys.argv[1])
