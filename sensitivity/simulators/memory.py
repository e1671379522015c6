"""The free memory of the machine, and warnings for a budget that cannot be kept."""

from __future__ import annotations

from sensitivity.processor import read

UNKNOWN_MEMORY = 8 * 2**30
"""Bytes that count as free if the system does not say."""


def host_memory() -> int:
    """Return the bytes free on the host; `UNKNOWN_MEMORY` if the system does not say."""
    return _bytes_named("/proc/meminfo", "MemAvailable:") or UNKNOWN_MEMORY


def peak_memory() -> int | None:
    """Return the largest number of host bytes that this process has held at once so far; None if
    the system does not say."""
    return _bytes_named("/proc/self/status", "VmHWM:")


def _bytes_named(path: str, field: str) -> int | None:
    """Return a number of bytes from one of Linux's own files; None if it cannot be read there."""
    for line in read(path).splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return None


def budget_warnings(needed: int, memory: int | None) -> tuple[str, ...]:
    """Return one sentence if values take more bytes than the budget has; empty otherwise.

    needed: largest number of bytes that were planned.
    memory: the budget; None for no limit.
    """
    if memory is None or needed <= memory:
        return ()
    return (
        f"Replay holds up to {needed / 2**20:.1f} MiB of values at once, more than its budget of "
        f"{memory / 2**20:.1f} MiB (--memory): one batch takes that much where cutting it further "
        "would change the numbers; use smaller batches or a larger budget.",
    )
