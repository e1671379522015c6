"""Lets the C library keep the memory of large tensors for the next ones.

By default glibc gives memory of some MiB back to the system as soon as it is free, and every new
tensor then costs a page fault for each 4 KiB. Convolutions whose outputs have 10 MB take two to
four times as much processor time that way (torch 2.13, oneDNN).
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
from typing import Any

ARENA_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -8, -3, -1
"""Numbers of the settings in malloc.h of glibc."""

LARGEST = 64 * 2**20
"""Size in bytes from which memory is still given back at once. Larger tensors come one at a time,
and their arithmetic takes long beside the page faults."""

KEPT = 256 * 2**20
"""The most bytes that stay free at the end of the heap."""

SELDOM = 20_000
"""New objects after which Python looks for circular references among them, in place of 700."""


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory in this process, and return whether it does.

    Other C libraries have no such setting, and nothing changes there.
    """
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    # Each arena would keep memory of its own, and each thread would have one.
    settings = {ARENA_MAX: 1, MMAP_THRESHOLD: LARGEST, TRIM_THRESHOLD: KEPT}
    return all(mallopt(setting, value) for setting, value in settings.items())


def trim_heap() -> None:
    """Give the memory that is free now back to the system, before more is needed at once."""
    malloc_trim = _function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def collect_and_trim() -> None:
    """Delete objects that only circular references hold, then trim the heap. For use between two
    steps, since a collection takes tenths of a second."""
    gc.collect()
    trim_heap()


def collect_seldom() -> None:
    """Let Python look for circular references less often in this process.

    Importing torch and a toolkit makes a million objects that stay, and looking through them again
    and again takes a second.
    """
    gc.set_threshold(SELDOM, 20, 20)


def spare_loaded() -> None:
    """Leave what is loaded out of all later collections, in a process that collects seldom.

    What is garbage now is deleted first. In other processes nothing happens, because objects that
    are spared are never collected.
    """
    if gc.get_threshold()[0] == SELDOM:
        gc.collect()
        gc.freeze()


def end_without_collecting() -> None:
    """Let the interpreter end without looking for circular references, which takes two seconds
    among the objects of torch and of a toolkit.

    The system takes all memory back anyway, and what others registered for the end still runs.
    """
    atexit.register(_stop_collecting)


def _stop_collecting() -> None:
    gc.freeze()
    gc.disable()


def _function(name: str) -> Any:
    """Return a function of the C library, or None if it has no function of this name, as on Windows
    and macOS."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
