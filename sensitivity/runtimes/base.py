"""A runtime builds an engine from an ONNX file, runs it, times it, and says what precision each
layer ran in."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import OnnxFileError, RuntimeUnavailable

# C++ files and lines, of no use to a reader
WHERE_THEY_FAILED = ("Exception from ", "Check ", "[WARNING]")
Tensors = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Port:
    """A tensor that a step reads or writes. tensor: its name in the engine, "" where the runtime
    does not say."""

    tensor: str
    precision: str
    layout: str = ""


@dataclass(frozen=True)
class LayerRun:
    """One step of an engine as the runtime ran it.

    name, op: the runtime's own words for the step and its kind.
    precision: what it computed in: "int8", "fp16", "fp32", ...; "?" where the runtime does not say.
    ms: time of this step in one inference (the median, or the mean where the runtime gives only
    that), from a
        profiling run, which is slower in total than an unprofiled one; None where it was not
        measured.
    onnx: names of the ONNX nodes it computes, in the file's order; empty for a step that the
    runtime added.
    origin: "reformat" for a copy that only changes layout, type or scale, "qdq" for a quantize or
    dequantize step
        that was not fused into another, None for everything else.
    inputs, outputs: its activations, not its weights.
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
    """A model built for one runtime. Use inside `with`."""

    precision: str
    """The precision that unquantized layers run in, such as "fp32" or "bf16", as the runtime was
    told."""

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        """Return every output by its name, for one batch."""
        ...

    def time_ms(self, inputs: Tensors, repeats: int) -> NDArray[np.float64]:
        """Wall time of `repeats` single inferences, float64[repeats], milliseconds, in the order
        they ran."""
        ...

    def close(self) -> None:
        """Free what the engine holds; it cannot be used any more."""
        ...


class ProfiledEngine(Engine, Protocol):
    """An engine that also says what it did. Not every runtime can."""

    def profile(self, inputs: Tensors, repeats: int) -> tuple[LayerRun, ...]:
        """Return every step of one inference in the order it ran, from `repeats` profiled
        inferences apart from any timing."""
        ...


class Runtime(Protocol):
    """What runs an ONNX file: it builds an engine, which runs, times and may profile it."""

    name: str

    def unavailable(self) -> str | None:
        """Return why this runtime cannot work on this machine, in one sentence with the fix; None
        where it can."""
        ...

    def version(self) -> str:
        """Return the version of the runtime's package or tool, as it writes it."""
        ...

    def build(self, file: Path, *, threads: int | None = None) -> Engine:
        """Raises RuntimeUnavailable where the runtime is missing, OnnxFileError where it refuses
        the file."""
        ...


class Closing:
    """`with engine:` closes it, also after an exception."""

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back what the engine holds; it cannot be used afterwards."""


def existing(file: Path) -> Path:
    """Return the file itself. Raises OnnxFileError where there is none, or it is empty."""
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
    """Return what a runtime wrote to a temporary file. by: what it is called. decode: raises
    ValueError where the bytes are no JSON. Raises RuntimeUnavailable where the file is missing or
    not whole: a full disk takes a part, and few runtimes look."""
    try:
        return decode(file.read_bytes())
    except (OSError, ValueError) as error:
        raise RuntimeUnavailable(
            f"Expected {by} to have written JSON to {file}, got: {error}; see that there is room "
            f"in {tempfile.gettempdir()}, or set TMPDIR to another folder."
        ) from error


def refused(file: Path, runtime: str, error: Exception) -> OnnxFileError:
    """Return the error for a file that a runtime cannot load, with the first line of what it
    said."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next(
        (line for line in lines if not line.startswith(WHERE_THEY_FAILED)), type(error).__name__
    )
    return OnnxFileError(
        f"Expected {file.name} to be an ONNX model that {runtime} can load, got: {said[:300]}; "
        "check it with 'sensitivity lint', or export it again."
    )


def fitted(inputs: Tensors, wanted: Mapping[str, np.dtype[Any]]) -> dict[str, NDArray[np.generic]]:
    """Return the inputs as contiguous arrays of the types that the file wants; floats are cast to
    its float type.

    Inputs that the file does not have are left out: a traced graph has none that it does not read,
    such as a mask. Raises OnnxFileError where one is missing, or a type that is not a float
    differs.
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
