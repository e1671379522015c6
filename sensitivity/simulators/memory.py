"""How much memory the machine has to spare."""

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
