"""Runs the pieces of a batch side by side, each with kernels of fewer threads.

Small kernels gain little from a second thread, and wait for it at the end of each one. Two pieces
in two threads have no such waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")

MOST_LANES = 4
"""Largest number of pieces that run side by side. Each holds values of its own, and all of them
take turns in the interpreter between two kernels."""


@dataclass(frozen=True)
class Cut:
    """How a batch is cut into pieces.

    parts: number of pieces.
    lanes: how many of them run side by side.
    """

    parts: int
    lanes: int = 1


WHOLE = Cut(1)
"""A batch that is not cut."""


def most_lanes() -> int:
    """Return how many pieces may run side by side: a number by which the threads of torch can be
    divided, so that each gets as many."""
    threads = torch.get_num_threads()
    return max(lanes for lanes in range(1, MOST_LANES + 1) if threads % lanes == 0)


def side_by_side(
    function: Callable[[Piece], Result], pieces: Sequence[Piece], lanes: int
) -> list[Result]:
    """Return function(piece) for each piece, in their order. The caller must disable gradients,
    which are disabled in other threads here.

    lanes: how many run at a time. With 1, they run one after the other in the caller's thread.
    Raises what the function raises, once no piece runs any more.
    """
    if lanes == 1 or len(pieces) == 1:
        return list(map(function, pieces))

    def without_gradients(piece: Piece) -> Result:
        with torch.no_grad():  # a setting of the thread
            return function(piece)

    threads = torch.get_num_threads() // lanes
    with kernel_threads(threads):
        pool = _pool(lanes, threads)
        futures = [pool.submit(without_gradients, piece) for piece in pieces]
        try:
            wait(futures)
        except KeyboardInterrupt:
            for future in futures:
                future.cancel()
            wait(futures)
            raise
    return [future.result() for future in futures]


@contextmanager
def kernel_threads(count: int) -> Iterator[None]:
    """Give kernels this number of threads inside the `with`."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _pool(lanes: int, threads: int) -> ThreadPoolExecutor:
    """Return the threads that run pieces, each with kernels of `threads` threads.

    torch keeps this number for each thread, and MKL for all of them.
    """
    return ThreadPoolExecutor(lanes, "lane", initializer=torch.set_num_threads, initargs=(threads,))
