"""The memory of a replay under a budget. Each is measured in a separate process."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import weakref
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from scan_models import loaded, read_anew

from sensitivity.quantizers.base import QuantizedModel
from sensitivity.tasks.base import Task

MIB = 2**20
BATCHES = 2
"""Batches to replay. Memory is that of one batch; the second shows that nothing is left over from
the first."""

SHARES = (0.5, 0.75, 1.0)
"""Budgets as fractions of what would be held without one."""


def unlimited_mib(task: Task, source: QuantizedModel) -> float:
    """The bytes that replaying all layers on the first batch would hold without a budget; 0 if the
    model is not replayed."""
    from sensitivity.simulators.torch.replay import ReplaySimulator
    from sensitivity.simulators.torch.tracing import Untraceable

    inputs, _ = next(iter(task.data["rank"]))
    try:
        return ReplaySimulator(source).peak(inputs, _variants(source)) / MIB
    except Untraceable:
        return 0.0


def memory_of(
    reference: str, samples: int | None, budget_mib: float, unlimited: float, device: str = "cpu"
) -> dict[str, Any]:
    """The memory of replaying all layers on the first batches, in a new process.

    planned_mib: what the schedule counts.
    held_mib: the most bytes that tensors made during the replay had at once, counted after every
        operation.
    within: whether `held_mib` is at most the budget.
    binds: whether the budget is below `unlimited`.
    warned: whether the run says that the budget is not held.
    peak_mib: the rise of memory above its level before the first batch, resident or, on a GPU,
        allocated.
    forward_mib: the same for one variant, for which nothing is kept.
    digest: of all outputs.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(_measured, reference, samples, budget_mib, device).result()
    return {
        "budget_mib": budget_mib,
        "unlimited_mib": unlimited,
        "binds": budget_mib < unlimited,
        **found,
    }


def _variants(source: QuantizedModel) -> list[frozenset[str]]:
    from sensitivity.quantizers.base import layers

    return [frozenset(unit.quantizers) for unit in layers(source.quantizers)]


def _measured(
    reference: str, samples: int | None, budget_mib: float, device: str
) -> dict[str, Any]:
    from sensitivity.opened import quantized_model
    from sensitivity.simulators.choose import simulator_for
    from sensitivity.simulators.torch.replay import ReplaySimulator

    task = read_anew(loaded(reference, device), samples)
    source = quantized_model(task.model)
    variants = _variants(source)
    batches = [inputs for inputs, _ in itertools.islice(task.data["rank"], BATCHES)]
    simulator = simulator_for(source, batches[0], memory=int(budget_mib * MIB))
    forward, _ = _peak(simulator, batches[:1], variants[:1], device)
    peak, digest = _peak(simulator, batches, variants, device)
    held = most_held(simulator, batches[0], variants)
    replays = isinstance(simulator, ReplaySimulator)
    return {
        "planned_mib": simulator.peak(batches[0], variants) / MIB if replays else None,
        "held_mib": held / MIB,
        "within": held <= budget_mib * MIB,
        "warned": bool(simulator.warnings),
        "peak_mib": peak,
        "forward_mib": forward,
        "digest": digest,
    }


def most_held(simulator: Any, inputs: Any, variants: list[frozenset[str]]) -> int:
    """The most bytes held at once by tensors that are made while these variants run. Memory inside
    an operation is not counted."""
    import torch
    from torch.utils import _pytree as pytree
    from torch.utils._python_dispatch import TorchDispatchMode

    class Held(TorchDispatchMode):
        now = most = 0

        def __init__(self) -> None:
            super().__init__()
            self._known: set[int] = set()

        def __torch_dispatch__(
            self, op: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = op(*args, **(kwargs or {}))
            if "memory_format" in (kwargs or {}):
                return result  # an image turned for the op that comes next is that op's own scratch
            read = {storage._cdata for storage in _storages((args, kwargs))}
            for storage in _storages(result):
                if storage._cdata not in self._known | read:
                    self._known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
            self.most = max(self.most, self.now)
            return result

        def _gone(self, name: int, size: int) -> None:
            self._known.discard(name)
            self.now -= size

    def _storages(nest: Any) -> list[Any]:
        return [
            leaf.untyped_storage()
            for leaf in pytree.tree_leaves(nest)
            if isinstance(leaf, torch.Tensor)
        ]

    with Held() as held:
        deque(simulator.outputs(inputs, variants), maxlen=0)
    return held.most


def _peak(
    simulator: Any, batches: list[Any], variants: list[frozenset[str]], device: str
) -> tuple[float, str]:
    """The rise of memory in MiB, and a digest of all outputs in the order of the variants."""
    before = _reset_peak(device)
    found: dict[tuple[int, int], bytes] = {}
    for number, inputs in enumerate(batches):
        for index, outputs in simulator.outputs(inputs, variants):
            found[number, index] = _digest(outputs)
            del outputs  # as the scan does
    return _peak_mib(device) - before, hashlib.sha256(
        b"".join(found[key] for key in sorted(found))
    ).hexdigest()[:16]


def _digest(outputs: Any) -> bytes:
    from torch.utils import _pytree as pytree

    digest = hashlib.sha256()
    for leaf in pytree.tree_leaves(outputs):
        digest.update(leaf.detach().cpu().contiguous().numpy().data)
    return digest.digest()


def _reset_peak(device: str) -> float:
    """Restart the count of the peak, and return what is held now in MiB."""
    if device == "cpu":
        # what is free but not given back would hide a part of the peak
        ctypes.CDLL(None).malloc_trim(0)
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
