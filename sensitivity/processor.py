"""The processor of this machine and its instructions."""

from __future__ import annotations

import platform
from pathlib import Path

FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
)
ARM_FLAGS = ("asimd", "asimddp", "i8mm", "bf16", "fphp", "sve")
INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}
UNKNOWN = "not readable"


def processor() -> dict[str, str]:
    """Return name -> value, for a report; a value that cannot be read is "not readable"."""
    info = {"flags": "", "Features": "", "model name": ""} | cpu_info(read("/proc/cpuinfo"))
    present = set((info["flags"] or info["Features"]).split())
    flags = filter(present.__contains__, FLAGS + ARM_FLAGS)
    return {
        "cpu": info["model name"] or platform.processor() or UNKNOWN,
        "cpu flags": " ".join(flags) if present else UNKNOWN,
        "int8 instructions": _yes_or_no(present & INT8_FLAGS),
        "hypervisor": _yes_or_no(present & {"hypervisor"}),
    }


def has_dot_products() -> bool:
    """Return whether the processor has instructions for INT8 dot products, such as VNNI."""
    return processor()["int8 instructions"] == "yes"


def cpu_info(text: str) -> dict[str, str]:
    """Return the first processor's block of /proc/cpuinfo."""
    info = {}
    first = text.split("\n\n")[0]
    for line in first.splitlines():
        name, _, value = line.partition(":")
        info[name.strip()] = value.strip()
    return info


def read(path: str) -> str:
    """Return the text of one of the system's own files; "" if it cannot be read."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _yes_or_no(present: set[str]) -> str:
    if present:
        return "yes"
    return "no"
