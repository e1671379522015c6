"""A `sensitivity` and a `python` for tests of whole command lines that do not import torch and
ModelOpt again.

These imports take eight seconds of a core, several times what most tests compute. One process does
them, and forks a child for each command line with its own memory, folder, environment and exit
code.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

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

DIED = 134

PID_FILE = "WARM_PID_FILE"
"""The variable that names the file to which the child writes its process id, so that a test can
kill it."""

STARTED_S = 600
"""How long the imports may take on a loaded machine."""


@contextlib.contextmanager
def warm(folder: Path) -> Iterator[Path]:
    """The folder, with a `sensitivity` and a `python` in it, which takes a script or -c; their
    process is stopped at the end."""
    address = folder / "socket"
    for name in ("sensitivity", "python"):
        (folder / name).write_text(CLIENT.format(python=sys.executable, address=str(address)))
        (folder / name).chmod(0o755)
    server = subprocess.Popen([sys.executable, __file__, str(address)], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + STARTED_S
        while not address.exists():
            assert server.poll() is None, "the process that imports has ended"
            assert time.monotonic() < end, f"no imports within {STARTED_S} s"
            time.sleep(0.05)
        yield folder
    finally:
        server.kill()
        server.wait()


def _serve(address: str) -> None:
    """Import, then fork a child for each client, for ever."""
    sys.path[0] = str(Path(__file__).parents[2])
    os.fsync = os.fstat  # type: ignore[assignment] # as in conftest.py
    gc.disable()
    for name in (*IMPORTED, *_own_modules()):
        importlib.import_module(name)
    _export_once()
    gc.enable()
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


def _own_modules() -> Iterator[str]:
    """The modules of this project that a command line may import, a second of a core together."""
    package = importlib.import_module("sensitivity")
    for module in pkgutil.walk_packages(package.__path__, "sensitivity."):
        if not module.name.startswith("sensitivity.testing") and "__main__" not in module.name:
            yield module.name


def _export_once() -> None:
    """Trace a small network, whose first time takes another second."""
    import torch

    torch.export.export(torch.nn.Conv2d(1, 1, 1), (torch.ones(1, 1, 2, 2),))


def _collect() -> None:
    """Wait for the children that have ended, so that their time counts as that of the tests."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _answer(client: socket.socket) -> None:
    """Run as the process that the client asked for, tell the client the exit code, and end."""
    _, files, _, _ = socket.recv_fds(client, 1, 3)
    for to, file in enumerate(files):
        os.dup2(file, to)
        os.close(file)
    with client.makefile("rb") as sent:
        asked = json.load(sent)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["variables"])
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if PID_FILE in os.environ:
        Path(os.environ[PID_FILE]).write_text(str(os.getpid()))
    code = _run(*asked["words"])
    client.sendall(bytes([code]))
    os._exit(code)


def _run(name: str, *words: str) -> int:
    """The exit code of a command line."""
    import atexit

    sys.argv = [name, *words]
    try:
        if Path(name).name == "python":
            _interpret(*words)
        else:
            from sensitivity.cli.main import main

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


def _interpret(first: str, *rest: str) -> None:
    """What an interpreter does with a script, or with -c and a program."""
    if first == "-c":
        sys.argv, sys.path[:0] = ["-c", *rest[1:]], [""]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    else:
        sys.argv, sys.path[:0] = [first, *rest], [str(Path(first).resolve().parent)]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1])
