"""How much memory the machine has to spare, and what to say where a budget cannot be held."""

from __future__ import annotations

from pathlib import Path


def host_memory() -> int:
    """Bytes free on the host; 8 GiB where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 8 * 2**30
    available = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return int(available.split()[1]) * 1024 if available else 8 * 2**30


def peak_memory() -> int | None:
    """Bytes of the host that this process has held at once so far, at most; None where the system
    does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    peak = next((line for line in lines if line.startswith("VmHWM:")), None)
    return int(peak.split()[1]) * 1024 if peak else None


def over_budget(needed: int, memory: int) -> str:
    """One sentence for values that take more bytes than the budget has. needed: the most that were
    planned."""
    return (
        f"Replay holds up to {needed / 2**20:.1f} MiB of values at once, more than its budget of "
        f"{memory / 2**20:.1f} MiB (--memory): one batch takes that much where cutting it further "
        "would change the numbers; use smaller batches or a larger budget."
    )
