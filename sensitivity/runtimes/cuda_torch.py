"""CUDA through torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity import optional
from sensitivity.runtimes.cuda import Buffer, Work


class TorchCuda:
    """CUDA through torch. Tensors hold the memory, and graphs record the work on torch's stream."""

    name = "torch"

    @staticmethod
    def problem() -> str | None:
        return None if optional.torch.cuda.is_available() else "torch sees no CUDA device"

    def __init__(self) -> None:
        self._torch: Any = optional.torch
        self._stream = self._torch.cuda.Stream()
        self._tensors: dict[int, Any] = {}  # by address: TensorRT holds no reference
        self._graphs: list[Any] = []
        self.device = str(optional.torch.cuda.get_device_name())
        self.handle = int(self._stream.cuda_stream)

    def allocate(self, nbytes: int) -> Buffer:
        tensor = self._torch.empty(max(nbytes, 1), dtype=self._torch.uint8, device="cuda")
        self._tensors[int(tensor.data_ptr())] = tensor
        return Buffer(int(tensor.data_ptr()), nbytes)

    def copy_in(self, buffer: Buffer, array: NDArray[np.generic]) -> None:
        host = self._torch.from_numpy(_bytes(array).copy())
        self._tensors[buffer.address][: array.nbytes].copy_(host)
        self._torch.cuda.synchronize()

    def copy_out(self, buffer: Buffer, array: NDArray[np.generic]) -> None:
        self.synchronize()
        _bytes(array)[:] = self._tensors[buffer.address][: array.nbytes].cpu().numpy()

    def synchronize(self) -> None:
        self._stream.synchronize()

    def elapsed_ms(self, work: Work) -> float:
        start, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(self._stream)
        work()
        end.record(self._stream)
        end.synchronize()
        return float(start.elapsed_time(end))

    def captured(self, work: Work) -> Work:
        graph = self._torch.cuda.CUDAGraph()
        self.synchronize()
        # In this mode, what other threads do with CUDA meanwhile does not break the capture.
        with self._torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()
        self._graphs.append(graph)

        def launch() -> None:
            with self._torch.cuda.stream(self._stream):
                graph.replay()

        return launch

    def close(self) -> None:
        self.synchronize()
        self._graphs.clear()
        self._tensors.clear()


def _bytes(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)
