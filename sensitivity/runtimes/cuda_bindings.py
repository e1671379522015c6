"""CUDA through NVIDIA's cuda-bindings."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import RuntimeUnavailable
from sensitivity.runtimes.cuda import Buffer, Work


def _runtime() -> Any:
    return importlib.import_module("cuda.bindings.runtime")


class BindingsCuda:
    """CUDA through NVIDIA's `cuda-bindings`, with the runtime's own error names."""

    name = "cuda-bindings"

    @staticmethod
    def problem() -> str | None:
        runtime = _runtime()
        error, count = runtime.cudaGetDeviceCount()
        if error != runtime.cudaError_t.cudaSuccess:
            return str(error.name)
        return None if count else "no device"

    def __init__(self) -> None:
        self._cuda = runtime = _runtime()
        self._stream = self._checked(runtime.cudaStreamCreate())
        self._start, self._end = (self._checked(runtime.cudaEventCreate()) for _ in range(2))
        self._addresses: list[int] = []
        self._graphs: list[Any] = []
        self.handle = int(self._stream)
        properties = self._checked(
            runtime.cudaGetDeviceProperties(self._checked(runtime.cudaGetDevice()))
        )
        self.device = properties.name.decode()

    def _checked(self, answer: tuple[Any, ...]) -> Any:
        """Return the value of a call, which comes after its error code.

        Raises RuntimeUnavailable if the call failed.
        """
        error, *values = answer
        if error != self._cuda.cudaError_t.cudaSuccess:
            raise RuntimeUnavailable(
                f"Expected the CUDA call to succeed, got {error.name}; check memory and the driver."
            )
        return values[0] if values else None

    def allocate(self, nbytes: int) -> Buffer:
        self._addresses.append(int(self._checked(self._cuda.cudaMalloc(max(nbytes, 1)))))
        return Buffer(self._addresses[-1], nbytes)

    def copy_in(self, buffer: Buffer, array: NDArray[np.generic]) -> None:
        self._copy(
            buffer.address,
            array.ctypes.data,
            array.nbytes,
            self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice,
        )

    def copy_out(self, buffer: Buffer, array: NDArray[np.generic]) -> None:
        self._copy(
            array.ctypes.data,
            buffer.address,
            array.nbytes,
            self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost,
        )

    def _copy(self, to: int, source: int, nbytes: int, kind: Any) -> None:
        self._checked(self._cuda.cudaMemcpyAsync(to, source, nbytes, kind, self._stream))
        self.synchronize()

    def synchronize(self) -> None:
        self._checked(self._cuda.cudaStreamSynchronize(self._stream))

    def elapsed_ms(self, work: Work) -> float:
        self._checked(self._cuda.cudaEventRecord(self._start, self._stream))
        work()
        self._checked(self._cuda.cudaEventRecord(self._end, self._stream))
        self._checked(self._cuda.cudaEventSynchronize(self._end))
        return float(self._checked(self._cuda.cudaEventElapsedTime(self._start, self._end)))

    def captured(self, work: Work) -> Work:
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.synchronize()
        self._checked(self._cuda.cudaStreamBeginCapture(self._stream, mode))
        try:
            work()
        finally:  # a stream left in capture mode can do nothing else
            graph = self._checked(self._cuda.cudaStreamEndCapture(self._stream))
        executable = self._checked(self._cuda.cudaGraphInstantiate(graph, 0))
        self._checked(self._cuda.cudaGraphDestroy(graph))
        self._graphs.append(executable)
        return lambda: self._checked(self._cuda.cudaGraphLaunch(executable, self._stream))

    def close(self) -> None:
        self.synchronize()
        for graph in self._graphs:
            self._checked(self._cuda.cudaGraphExecDestroy(graph))
        for address in self._addresses:
            self._checked(self._cuda.cudaFree(address))
        for event in (self._start, self._end):
            self._checked(self._cuda.cudaEventDestroy(event))
        self._checked(self._cuda.cudaStreamDestroy(self._stream))
