"""The part of CUDA that timing an engine needs, through whichever Python package the user has.

It covers device memory, one stream, events and graphs, through torch, `cuda-bindings` or pycuda.
None of the three has been run here on a GPU. Their calls were checked only against the packages'
names (torch 2.13, cuda-bindings 13.5).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import RuntimeUnavailable

Work = Callable[[], None]
PACKAGES = {
    "torch": "sensitivity.runtimes.cuda_torch:TorchCuda",
    "cuda.bindings": "sensitivity.runtimes.cuda_bindings:BindingsCuda",
    "pycuda": "sensitivity.runtimes.cuda_pycuda:PyCuda",
}


@dataclass(frozen=True)
class Buffer:
    """Device memory. `address` is valid until `Cuda.close`."""

    address: int
    nbytes: int


class Cuda(Protocol):
    """One stream of the current device.

    device: the GPU's name.
    handle: the stream as an integer, as TensorRT takes it.
    """

    name: str
    device: str
    handle: int

    def allocate(self, nbytes: int) -> Buffer:
        """Return memory of the device, which `close` frees."""
        ...

    def copy_in(self, buffer: Buffer, array: NDArray[np.generic]) -> None:
        """Copy a contiguous array to the start of the buffer, and wait."""
        ...

    def copy_out(self, buffer: Buffer, array: NDArray[np.generic]) -> None:
        """Fill a contiguous array from the start of the buffer, and wait."""
        ...

    def synchronize(self) -> None:
        """Wait until all that was put on the stream is done."""
        ...

    def elapsed_ms(self, work: Work) -> float:
        """Return the GPU time in milliseconds of what `work` puts on the stream, between two
        events."""
        ...

    def captured(self, work: Work) -> Work:
        """Return a function that launches what `work` puts on the stream as a CUDA graph.

        `work` must have run once before, because TensorRT does deferred work in its first launch
        that cannot be captured.
        """
        ...

    def close(self) -> None:
        """Free all buffers, graphs, events and the stream."""
        ...


def cuda_problem() -> str | None:
    """Return why no CUDA package works here, in one sentence; None if one does."""
    problems = []
    for package, path in PACKAGES.items():
        if not _installed(package):
            problems.append(f"{package} is not installed")
            continue
        if (problem := _load(path).problem()) is None:
            return None
        problems.append(f"{package}: {problem}")
    return f"no CUDA device can be used from Python ({'; '.join(problems)})"


def open_cuda() -> Cuda:
    """Return the first CUDA package that works.

    Raises RuntimeUnavailable, with the reason for each package, if none does.
    """
    for package, path in PACKAGES.items():
        if _installed(package) and _load(path).problem() is None:
            cuda: Cuda = _load(path)()
            return cuda
    raise RuntimeUnavailable(
        f"Expected a CUDA device, got: {cuda_problem()}; install torch with CUDA or cuda-bindings, "
        "and the driver."
    )


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
