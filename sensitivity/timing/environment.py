"""What a latency depends on besides the model: the machine, its clocks, threads and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping

from sensitivity.processor import UNKNOWN, processor, read

WIDE_FLAGS = {"avx2", "avx512f"}
PACKAGES = (
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "tensorrt-rtx-cu12",  # comes without a distribution called tensorrt-rtx
    "torch",
    "nvidia-modelopt",
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_AFFINITY", "GOMP_CPU_AFFINITY")
GPU_FIELDS = (
    "name",
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "persistence_mode",
    "power.limit",
)


def environment() -> dict[str, str]:
    """Return name -> value, for a report; a value that cannot be read is "not readable"."""
    return _machine() | processor() | _clocks() | _threads() | _gpu() | _versions()


def saturates(environment: Mapping[str, str]) -> bool:
    """Return whether sums of INT8 products may saturate at 16 bits on this processor: one with AVX2
    or AVX-512, but without instructions for INT8 dot products.

    environment: as `environment` returns it.
    """
    has_wide = bool(WIDE_FLAGS & set(environment.get("cpu flags", "").split()))
    return has_wide and environment.get("int8 instructions") == "no"


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _machine() -> dict[str, str]:
    return {
        "machine": platform.machine(),
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def _clocks() -> dict[str, str]:
    cpufreq = "/sys/devices/system/cpu/cpu0/cpufreq"
    clocks = []
    for name in ("min", "cur", "max"):
        khz = read(f"{cpufreq}/scaling_{name}_freq")
        if khz:
            clocks.append(f"{name} {int(khz) // 1000}")
    return {
        "governor": read(f"{cpufreq}/scaling_governor") or UNKNOWN,
        "clock MHz": ", ".join(clocks) or UNKNOWN,
        "load": _load(),
    }


def _load() -> str:
    if not hasattr(os, "getloadavg"):  # Windows
        return UNKNOWN
    return " ".join(map("{:.2f}".format, os.getloadavg()))


def _threads() -> dict[str, str]:
    facts = {
        "cores": str(os.cpu_count()),
        "usable cores": str(usable_cores()),
        "cpu quota": read("/sys/fs/cgroup/cpu.max") or UNKNOWN,
    }
    for name in THREAD_VARIABLES:
        if os.environ.get(name):
            facts[name] = os.environ[name]
    return facts


def _gpu() -> dict[str, str]:
    if not (tool := shutil.which("nvidia-smi")):
        return {"gpu": "none found (no nvidia-smi)"}
    query = [tool, f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(  # noqa: S603 - a fixed query
            query, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {"gpu": "nvidia-smi does not answer"}
    if not answer:
        return {}
    values = map(str.strip, answer.splitlines()[0].split(","))
    names = map("gpu {}".format, GPU_FIELDS)
    return dict(zip(names, values, strict=False))


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
