"""A runtime builds an engine from an ONNX file, runs it and times it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[np.generic]]


class Engine(Protocol):
    """A model built for one runtime. Use inside `with`."""

    precision: str
    """The precision that unquantized layers run in, such as "fp32" or "bf16", as the runtime was told."""

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]: ...

    def time_ms(self, inputs: Tensors, repeats: int) -> NDArray[np.float64]:
        """Wall time of `repeats` single inferences, float64[repeats], milliseconds, in the order they ran."""
        ...

    def close(self) -> None: ...


class Runtime(Protocol):
    name: str

    def unavailable(self) -> str | None:
        """Why this runtime cannot work on this machine, in one sentence with the fix; None where it can."""
        ...

    def version(self) -> str: ...

    def build(self, file: Path, *, threads: int | None = None) -> Engine:
        """Raises RuntimeUnavailable where the runtime is missing, OnnxFileError where it refuses the file."""
        ...
