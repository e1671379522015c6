"""What TensorRT for RTX makes of an ONNX file: its parser's errors, or the layers of the engine.

Its builder needs no GPU. It can end its process on some files, so it works in a child process with
a time limit. Give it only files that lint does not refuse. Nothing is executed or timed, since that
needs an RTX GPU.
"""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensitivity.errors import RuntimeUnavailable
from sensitivity.runtimes.base import existing, written_json
from sensitivity.runtimes.tensorrt_rtx_log import Layer, engine_layers

MODULE = "tensorrt_rtx"
CHILD = Path(__file__).with_name("tensorrt_rtx_child.py")
SM = 89
"""Compute capability 8.9: GeForce RTX 40 and Ada workstation GPUs."""
SECONDS = 120.0


@dataclass(frozen=True)
class ParserError:
    """An error of the parser.

    node, operator: of the ONNX node that the parser refused; empty if it blames the whole file.
    """

    node: str
    operator: str
    text: str

    def __str__(self) -> str:
        where = f"{self.operator} {self.node}".strip()
        return f"{where}: {self.text}" if where else self.text


@dataclass(frozen=True)
class Build:
    """One attempt to build a file.

    version: of tensorrt_rtx.
    sm: compute capability that it was built for, such as 89.
    ok: whether there is an engine.
    parsed: whether the parser accepted the file.
    errors: of the parser; empty if it accepted the file.
    layers: of the engine, in its order.
    ended: why there is no engine although no parser error was reported, else None.
    """

    version: str
    sm: int
    ok: bool
    parsed: bool
    errors: tuple[ParserError, ...] = ()
    layers: tuple[Layer, ...] = ()
    ended: str | None = None

    @property
    def problem(self) -> str | None:
        """Why there is no engine, in one line; None if there is one."""
        if self.errors:
            return f"the parser of TensorRT-RTX {self.version} refuses {self.errors[0]}"
        return self.ended


def unavailable() -> str | None:
    """Return why nothing can be built here, in one sentence with the fix; None if it can."""
    if importlib.util.find_spec(MODULE) is None:
        return (
            f"{MODULE} is not installed; run: pip install tensorrt-rtx (Linux and Windows, x86-64)"
        )
    return None


def build(path: Path, *, sm: int = SM, timeout_s: float = SECONDS) -> Build:
    """Parse and build `path` in a child process.

    The network is strongly typed, since RTX has no other kind.

    sm: compute capability that the engine is for.
    timeout_s: seconds after which the child is ended.
    Raises OnnxFileError if there is no file, RuntimeUnavailable if nothing can be built here or for
    this `sm`.
    """
    if problem := unavailable():
        raise RuntimeUnavailable(f"Expected to build {path.name}, got: {problem}.")
    existing(path)
    with tempfile.TemporaryDirectory() as folder:
        answer_path = Path(folder) / "answer.json"
        ended = _run_child(path, sm, answer_path, timeout_s)
        if not answer_path.exists():
            raise RuntimeUnavailable(
                f"Expected {MODULE} to load, got: it {ended or 'gave no answer'}; install it again."
            )
        answer = written_json(answer_path, MODULE)
    if f"SM{sm}" not in answer["known"]:
        known = ", ".join(name.removeprefix("SM") for name in answer["known"])
        raise RuntimeUnavailable(
            f"Expected --sm to be one of {known}, which {MODULE} builds for, got {sm}."
        )
    return _build(answer, sm, ended)


def _run_child(path: Path, sm: int, answer_path: Path, timeout_s: float) -> str | None:
    """Return how the child failed; None if it ended normally."""
    # -P keeps the script's folder off the path. It holds tensorrt.py, which tensorrt_rtx might
    # import by mistake.
    command = [sys.executable, "-P", str(CHILD), str(path), str(sm), str(answer_path)]
    try:
        done = subprocess.run(  # noqa: S603 - our own child
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"had no end after {timeout_s:g} s"
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return f"ended its process with {_how(done.returncode)}" + (f" ({last[:200]})" if last else "")


def _how(code: int) -> str:
    if code > 0:
        return f"exit code {code}"
    known = {item.value: item.name for item in signal.Signals}
    return f"signal {known.get(-code, -code)}"


def _build(answer: dict[str, Any], sm: int, ended: str | None) -> Build:
    version, stage = str(answer["version"]), answer["stage"]
    if stage == "done":
        return Build(
            version, sm, ok=True, parsed=True, layers=engine_layers(answer["layers"], version)
        )
    if "parser_errors" in answer:
        errors = tuple(
            ParserError(*(str(part) for part in error)) for error in answer["parser_errors"]
        )
        return Build(version, sm, ok=False, parsed=False, errors=errors or (_unnamed(answer),))
    part = "parser" if stage == "parse" else "builder"
    reason = f"the {part} of TensorRT-RTX {version} {ended or f'says: {_reason(answer)}'}"
    return Build(version, sm, ok=False, parsed=stage == "build", ended=reason)


def _unnamed(answer: dict[str, Any]) -> ParserError:
    return ParserError("", "", _reason(answer))


def _reason(answer: dict[str, Any]) -> str:
    return "; ".join(answer.get("errors", ())) or "no reason given"
