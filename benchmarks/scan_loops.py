"""The three loops that `scan.py` compares, each as steps that can be taken in turn, and the clock
that times them.

naive: for each layer its quantizers are disabled in the user's own model, all samples are read,
    decoded and evaluated, and the quantizers are enabled again. This is what users write by hand.
exact: the project's own exact scan, batch by batch for all layers, through a journal on disk.
floor: the float work of the exact scan alone. It is the same graph, schedule and micro-batches with
    every quantizer passing its input through, minus one whole forward per batch, from which all
    layers start. What remains is, for each layer, the float forward of the part downstream of its
    quantizers.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sensitivity.journal.journal import open_journal
from sensitivity.measure.measurer import Measurer
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.quantizers.torch.calls import call, device_of, to_device
from sensitivity.records import Scores, Unit, Variant
from sensitivity.simulators.base import Simulator
from sensitivity.tasks.base import Task

FLOOR = "it is the floor"


class Clock:
    """Seconds by name. On a GPU the clock waits for the device before each reading."""

    def __init__(self, model: Any) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        device = device_of(model)
        self._cuda = device is not None and device.type == "cuda"

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.seconds[name] += self._now() - start

    def _now(self) -> float:
        if self._cuda:
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()


class Timed:
    """A simulator whose own time is counted as `model` on a clock."""

    def __init__(self, simulator: Simulator, clock: Clock) -> None:
        self.name, self.reason, self.smallest = simulator.name, simulator.reason, simulator.smallest
        self._simulator, self._clock = simulator, clock

    def outputs(self, inputs: Any, variants: Sequence[frozenset[str]]) -> Iterator[tuple[int, Any]]:
        results = self._simulator.outputs(inputs, variants)
        while True:
            with self._clock.on("model"):
                item = next(results, None)
            if item is None:
                return
            yield item


def evaluated(model: Any, disabled: Sequence[str], task: Task, clock: Clock) -> Scores:
    """The scores of each sample from one whole evaluation with these quantizers disabled, by the
    user's own modules."""
    import torch

    modules = [model.get_submodule(name) for name in disabled]
    parts: list[Scores] = []
    for module in modules:
        module.disable()
    try:
        batches = iter(task.data["rank"])
        while True:
            with clock.on("data"):
                batch = next(batches, None)
            if batch is None:
                return np.concatenate(parts)
            inputs, targets = batch
            with clock.on("model"), torch.no_grad():
                outputs = call(model, to_device(inputs, device_of(model)))
            with clock.on("score"):
                parts.append(np.asarray(task.score(outputs, targets), dtype=np.float64))
    finally:
        for module in modules:
            module.enable()


def naive_steps(
    model: Any, units: Sequence[Unit], task: Task, clock: Clock, found: dict[str, Scores]
) -> Iterator[None]:
    """One step for each layer. `found` gets its scores."""
    for unit in units:
        with clock.on("wall"):
            found[unit.name] = evaluated(model, unit.quantizers, task, clock)
            with clock.on("score"):
                task.aggregate(found[unit.name])
        yield


def exact_steps(
    source: QuantizedModel,
    units: Sequence[Unit],
    task: Task,
    clock: Clock,
    found: dict[str, Scores],
    folder: Path,
    memory: int | None,
    backends: list[Simulator],
) -> Iterator[None]:
    """One step for each batch, after one that makes the simulator. `found` gets the scores of each
    layer at the end."""
    from sensitivity.simulators.choose import simulator_for

    with clock.on("wall"), clock.on("setup"):
        backends.append(simulator_for(source, next(iter(task.data["rank"]))[0], memory=memory))
    yield
    variants = [Variant(f"without {unit.name}", frozenset(unit.quantizers)) for unit in units]
    parts: list[list[Scores]] = []
    with open_journal(folder / "journal.jsonl", {"benchmark": "exact"}, resume=False) as journal:
        measurer = Measurer(task, lambda _: Timed(backends[0], clock), journal)
        batches = measurer.stream(variants, "rank", "scan")
        while True:
            with clock.on("wall"):
                scores = next(batches, None)
            if scores is None:
                break
            parts.append(scores)
            yield
        clock.seconds["samples"] = measurer.samples
    with clock.on("wall"):
        for unit, own in zip(units, zip(*parts, strict=True), strict=True):
            found[unit.name] = np.concatenate(own)
            task.aggregate(found[unit.name])


def floor_steps(
    source: QuantizedModel, units: Sequence[Unit], task: Task, clock: Clock
) -> Iterator[None]:
    """One step for each batch, timed as "float replay" and "float forward" on the clock; None if
    the model cannot be replayed."""
    replay = float_replay(source)
    everything = frozenset(quantizer.name for quantizer in source.quantizers)
    passes = {
        "float replay": [frozenset(unit.quantizers) for unit in units],
        "float forward": [everything],
    }
    for number, (inputs, _) in enumerate(task.data["rank"]):
        for name, variants in passes.items():
            if number == 0:  # traces the model, measures its values, and makes the schedule
                _exhaust(replay.outputs(inputs, variants))
                if replay.reason != FLOOR:  # it has turned to the user's own modules
                    return
            with clock.on(name):
                _exhaust(replay.outputs(inputs, variants))
        yield


def float_replay(source: QuantizedModel) -> Simulator:
    """A replay in which every quantizer, enabled or not, passes its input through. It takes the
    same steps without quantization."""
    from sensitivity.simulators.torch.replay import ReplaySimulator

    class PassThrough:
        fresh = False

        def __call__(self, x: Any) -> Any:
            return x

        overwrite = __call__

    class FloatReplay(ReplaySimulator):
        def __init__(self) -> None:
            super().__init__(source, None, reason=FLOOR)
            self._quantizers: list[Any] = [PassThrough() for _ in source.quantizers]
            self._own = False

        def _check(self, *what: Any) -> None:
            """Check nothing: the outputs differ from those of the quantized model on purpose."""

    return FloatReplay()


def _exhaust(results: Iterator[Any]) -> None:
    for _ in results:
        pass


def interleaved(*loops: tuple[int, Iterator[None]]) -> None:
    """Take the steps of all loops in turn, so that other work on the machine slows all of them
    alike.

    loops: (about how many steps it has, the steps) of each loop.
    """
    done = [0.0] * len(loops)
    running = set(range(len(loops)))
    while running:
        behind = min(running, key=lambda index: (done[index], index))
        size, steps = loops[behind]
        if next(steps, running) is running:
            running.discard(behind)
        done[behind] += 1 / max(size, 1)
