"""Memory of a replay under a budget, each measured in a process of its own."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from scan_models import loaded, read_anew

MIB = 2**20
OVERHEAD_MIB = 4
"""Whatever the model: the schedules, and gaps that the allocator leaves."""

BATCHES = 2
"""Memory is that of one batch; the second shows that none is left over from the first."""


def memory_of(reference: str, samples: int | None, budget_mib: int, device: str = "cpu") -> dict[str, Any]:
    """Peak of replaying all layers on the first batches, in a new process.

    peak_mib: most memory over that before the first batch, resident or, on a GPU, allocated. forward_mib: the same for
    one variant, for which nothing is kept; no budget can be lower. planned_mib: what the schedule counts, values only;
    unlimited_mib: what that would be without a budget. over_mib: peak less budget and one forward. within: that is at
    most OVERHEAD_MIB. digest: of all outputs.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, reference, samples, budget_mib, device).result()


def _measured(reference: str, samples: int | None, budget_mib: int, device: str) -> dict[str, Any]:
    from sensitivity.quantizers.base import layers
    from sensitivity.session import quantized_model
    from sensitivity.simulators.choose import simulator_for
    from sensitivity.simulators.replay import ReplaySimulator

    task = read_anew(loaded(reference, device), samples)
    source = quantized_model(task.model)
    variants = [frozenset(unit.quantizers) for unit in layers(source.quantizers)]
    batches = [inputs for inputs, _ in itertools.islice(task.data["rank"], BATCHES)]
    simulator = simulator_for(source, batches[0], memory=budget_mib * MIB)
    forward, _ = _peak(simulator, batches[:1], variants[:1], device)
    peak, digest = _peak(simulator, batches, variants, device)
    replays = isinstance(simulator, ReplaySimulator)
    return {
        "budget_mib": budget_mib,
        "peak_mib": peak,
        "forward_mib": forward,
        "planned_mib": simulator.peak(batches[0], variants) / MIB if replays else None,
        "unlimited_mib": ReplaySimulator(source).peak(batches[0], variants) / MIB if replays else None,
        "over_mib": peak - budget_mib - forward,
        "within": peak - budget_mib - forward <= OVERHEAD_MIB,
        "digest": digest,
    }


def _peak(simulator: Any, batches: list[Any], variants: list[frozenset[str]], device: str) -> tuple[float, str]:
    """MiB over what was resident before, and a digest of all outputs in the order of the variants."""
    before = _reset_peak(device)
    found: dict[tuple[int, int], bytes] = {}
    for number, inputs in enumerate(batches):
        for index, outputs in simulator.outputs(inputs, variants):
            found[number, index] = _digest(outputs)
    return _peak_mib(device) - before, hashlib.sha256(b"".join(found[key] for key in sorted(found))).hexdigest()[:16]


def _digest(outputs: Any) -> bytes:
    from torch.utils import _pytree as pytree

    digest = hashlib.sha256()
    for leaf in pytree.tree_leaves(outputs):
        digest.update(leaf.detach().cpu().contiguous().numpy().data)
    return digest.digest()


def _reset_peak(device: str) -> float:
    """Start a new count of the peak, and give what is held now, in MiB."""
    if device == "cpu":
        ctypes.CDLL(None).malloc_trim(0)  # what is free but not given back would hide a part of the peak
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
        return _status("VmRSS")
    import torch

    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / MIB


def _peak_mib(device: str) -> float:
    if device == "cpu":
        return _status("VmHWM")
    import torch

    return torch.cuda.max_memory_allocated() / MIB


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024
