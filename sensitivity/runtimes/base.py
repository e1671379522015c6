"""A runtime builds an engine from an ONNX file, runs and times it, and tells the precision of each
layer."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import OnnxFileError, RuntimeUnavailable

# These lines of an error only name C++ files and lines, which do not help a reader.
WHERE_THEY_FAILED = ("Exception from ", "Check ", "[WARNING]")
Tensors = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Port:
    """A tensor that a step reads or writes.

    tensor: its name in the engine; "" if the runtime does not say.
    """

    tensor: str
    precision: str
    layout: str = ""


@dataclass(frozen=True)
class LayerRun:
    """One step of an engine as the runtime ran it.

    name, op: the runtime's own words for the step and its kind.
    precision: what it computed in: "int8", "fp16", "fp32", ...; "?" if the runtime does not say.
    ms: time of this step in one inference, the median, or the mean if the runtime gives only that.
        It comes from a profiling run, which is slower in total than an unprofiled one. None if it
        was not measured.
    onnx: names of the ONNX nodes that it computes, in the file's order; empty for a step that the
        runtime added.
    origin: "reformat" for a copy that only changes layout, type or scale; "qdq" for a quantize or
        dequantize step that was not fused into another; None for everything else.
    inputs, outputs: its activations, without its weights.
    """

    name: str
    op: str
    precision: str
    ms: float | None
    onnx: tuple[str, ...] = ()
    origin: str | None = None
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()


class Engine(Protocol):
    """A model built for one runtime. Use it inside `with`."""

    precision: str
    """The precision of unquantized layers, such as "fp32" or "bf16", as the runtime was told."""

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        """Return every output by its name, for one batch."""
        ...

    def time_ms(self, inputs: Tensors, repeats: int) -> NDArray[np.float64]:
        """Return the wall times of `repeats` single inferences, in the order in which they ran.

        They are float64[repeats], in milliseconds.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; it cannot be used any more."""
        ...


class Runtime(Protocol):
    """A runtime, which builds an engine from an ONNX file. The engine runs, times and may profile
    it."""

    name: str

    def unavailable(self) -> str | None:
        """Return why this runtime cannot work on this machine, in one sentence with the fix.

        Returns None if it can.
        """
        ...

    def version(self) -> str:
        """Return the version of the runtime's package or tool, in its own spelling."""
        ...

    def build(self, file: Path, *, threads: int | None = None) -> Engine:
        """Build an engine from a file.

        threads: number of threads for one inference; None leaves it to the runtime.
        Raises RuntimeUnavailable if the runtime is missing, OnnxFileError if it refuses the file.
        """
        ...


class Closing:
    """An engine that `with engine:` closes, also after an exception."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free what the engine holds; it cannot be used afterwards."""


def existing(file: Path) -> Path:
    """Return the file itself.

    Raises OnnxFileError if there is none, or if it is empty.
    """
    if not file.is_file():
        raise OnnxFileError(
            f"Expected an ONNX file at {file}, got none; run 'sensitivity export' first, or check "
            "the path."
        )
    if file.stat().st_size == 0:
        raise OnnxFileError(
            f"Expected an ONNX model in {file}, got an empty file; export it again."
        )
    return file


def written_json(file: Path, by: str, decode: Callable[[bytes], Any] = json.loads) -> Any:
    """Return what a runtime wrote to a temporary file.

    by: name of the runtime.
    decode: raises ValueError if the bytes are not JSON.
    Raises RuntimeUnavailable if the file is missing or truncated. On a full disk only a part is
    written, and few runtimes check that.
    """
    try:
        return decode(file.read_bytes())
    except (OSError, ValueError) as error:
        raise RuntimeUnavailable(
            f"Expected {by} to have written JSON to {file}, got: {error}; see that there is room "
            f"in {tempfile.gettempdir()}, or set TMPDIR to another folder."
        ) from error


def refused(file: Path, runtime: str, error: Exception) -> OnnxFileError:
    """Return the error for a file that a runtime cannot load, with the first line of its
    message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = next(
        (line for line in lines if not line.startswith(WHERE_THEY_FAILED)), type(error).__name__
    )
    return OnnxFileError(
        f"Expected {file.name} to be an ONNX model that {runtime} can load, got: {message[:300]}; "
        "check it with 'sensitivity lint', or export it again."
    )


def fitted(inputs: Tensors, wanted: Mapping[str, np.dtype[Any]]) -> dict[str, NDArray[np.generic]]:
    """Return the inputs as contiguous arrays of the types that the file takes.

    Floats are cast to the float type of the file. Inputs that the file does not have are left out:
    a traced graph has none that it does not read, such as a mask.

    wanted: name -> type of each input of the file.
    Raises OnnxFileError if an input is missing, or if its type differs and is not a float.
    """
    if not set(wanted) <= set(inputs):
        raise OnnxFileError(
            f"Expected inputs named {', '.join(wanted)}, got {', '.join(inputs) or 'none'}."
        )
    for name, dtype in wanted.items():
        got = inputs[name].dtype
        if got != dtype and not (got.kind == dtype.kind == "f"):
            raise OnnxFileError(
                f"Expected input {name} of type {dtype}, got {got}; convert it before the run."
            )
    return {name: np.ascontiguousarray(inputs[name], dtype=dtype) for name, dtype in wanted.items()}
