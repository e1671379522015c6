"""CUDA through pycuda, for users who have it. It has no CUDA graphs."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import RuntimeUnavailable
from sensitivity.runtimes.cuda import Buffer, Work


class PyCuda:
    """CUDA through pycuda, in the primary context of the first device."""

    name = "pycuda"

    @staticmethod
    def problem() -> str | None:
        driver = importlib.import_module("pycuda.driver")
        try:
            driver.init()
            return None if driver.Device.count() else "no device"
        except driver.Error as error:
            return str(error)

    def __init__(self) -> None:
        self._driver: Any = importlib.import_module("pycuda.driver")
        driver = self._driver
        driver.init()
        # TensorRT works in the primary context. It would not see memory of a new one.
        self.device = str(driver.Device(0).name())
        self._context = driver.Device(0).retain_primary_context()
        self._context.push()
        self._stream = driver.Stream()
        self._memory: list[Any] = []
        self.handle = int(self._stream.handle)

    def allocate(self, nbytes: int) -> Buffer:
        self._memory.append(self._driver.mem_alloc(max(nbytes, 1)))
        return Buffer(int(self._memory[-1]), nbytes)

    def copy_in(self, buffer: Buffer, array: NDArray[np.generic]) -> None:
        self._driver.memcpy_htod_async(buffer.address, array, self._stream)
        self.synchronize()

    def copy_out(self, buffer: Buffer, array: NDArray[np.generic]) -> None:
        self._driver.memcpy_dtoh_async(array, buffer.address, self._stream)
        self.synchronize()

    def synchronize(self) -> None:
        self._stream.synchronize()

    def elapsed_ms(self, work: Work) -> float:
        start, end = self._driver.Event(), self._driver.Event()
        start.record(self._stream)
        work()
        end.record(self._stream)
        end.synchronize()
        return float(start.time_till(end))

    def captured(self, work: Work) -> Work:
        raise RuntimeUnavailable(
            "Expected CUDA graphs, got pycuda, which has none; install cuda-bindings or set "
            "cuda_graph=False."
        )

    def close(self) -> None:
        self.synchronize()
        for memory in self._memory:
            memory.free()
        self._context.pop()
        self._context.detach()
