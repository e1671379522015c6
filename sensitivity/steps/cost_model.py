"""Cost of running a skip-set, for the planners: from the graph, from a table of measured layers, or
from engines."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sensitivity.config import CostName
from sensitivity.cost.engines import engine_cost, engine_sets
from sensitivity.cost.model import operations_cost, table_cost, with_raises, work_cost
from sensitivity.cost.shapes import work_of, work_of_model
from sensitivity.cost.table import FILE, measured_table, to_measure
from sensitivity.errors import TaskError
from sensitivity.exporters.lower import TARGETS, LowerTarget
from sensitivity.measure.progress import Advance
from sensitivity.onnx_graph.work import Work
from sensitivity.planners.base import Probe
from sensitivity.quantizers.base import form_of
from sensitivity.records import CostModel, names_of
from sensitivity.run_dir import LOWERED
from sensitivity.runtimes.base import Runtime
from sensitivity.seeds import generator
from sensitivity.session import Session
from sensitivity.timing.environment import environment, usable_cores
from sensitivity.timing.inputs import random_inputs
from sensitivity.timing.protocol import interleaved

if TYPE_CHECKING:
    from sensitivity.exporters.candidates import Candidates

ROUNDS, MOST_ROUNDS, WARMUP, PER_TURN = 60, 600, 10, 5
PASSES, QUICK_MS, FEW = 3, 2.0, 12
"""Each set is built and timed `PASSES` times, in different groups. With more than `FEW` sets, it is
done once if one engine takes longer than `QUICK_MS` milliseconds. Single units may thus be timed
once, but never the plans that are compared in the end."""

AT_ONCE = 6
"""Number of engines in a group."""

BUILDS = 2
"""Builds of everything in INT8 in each group, which the others are compared with. Two builds of one
file differ by some percent."""

TIMED_MS = 200.0
"""Smallest total time of each engine in milliseconds, within the limits on rounds. The median of an
engine that takes a tenth of a millisecond needs many rounds."""

WORK_COSTS = {"macs": work_cost, "operations": operations_cost}
"""Costs that follow from the graph alone."""


@contextmanager
def cost_and_probe(
    session: Session,
    kind: CostName,
    runtime: Runtime,
    threads: int | None,
    *,
    one_type: bool = False,
) -> Iterator[tuple[CostModel, Probe | None]]:
    """Yield the cost of leaving units out and, for `engine`, a probe that measures whole engines.

    one_type: whether operations of the target read and write one type, see `with_raises`.
    Raises TaskError for a task without example inputs, ExportError if the model cannot be exported,
    and what the runtime raises.
    """
    with _of_layers(session, kind, runtime, threads) as (cost, work, probe):
        yield (with_raises(cost, work, session.units) if one_type else cost), probe


@contextmanager
def _of_layers(
    session: Session, kind: CostName, runtime: Runtime, threads: int | None
) -> Iterator[tuple[CostModel, Work, Probe | None]]:
    """Yield the cost of leaving units out, the work of the layers, and a probe, as
    `cost_and_probe`."""
    from sensitivity.exporters.candidates import Candidates

    if session.example is None:
        raise TaskError(
            "Expected the task to have example_inputs for --planner cost, got None; add one batch "
            "of inputs to the EvaluateTask."
        )
    if form_of(session.source) == "onnx":
        yield *_cost_of_file(session, kind), None
        return
    threads = threads or usable_cores()
    with tempfile.TemporaryDirectory() as name:
        target = LOWERED.get(runtime.name, runtime.name)
        lowered = cast("LowerTarget", target) if target in TARGETS else None
        made = Candidates(
            session.source,
            session.example,
            session.units,
            Path(name),
            calibration=session.inputs(),
            target=lowered,
        )
        file = made.canonical(())
        if kind in WORK_COSTS:
            work = work_of(file, products=True)
            yield WORK_COSTS[kind](work, session.units), work, None
            return
        work = work_of(file)
        probe = Prober(made, runtime, threads)
        with session.measurer.progress(
            f"cost: layers in {runtime.name}", to_measure(work)
        ) as advance:
            file = session.run_dir.path / FILE
            table = measured_table(
                work, runtime, place(runtime, threads), file, threads=threads, advance=advance
            )
        names = tuple(names_of(session.units))
        if kind == "table":
            int8_ms, float_ms = probe([(), names])
            yield table_cost(work, session.units, table, int8_ms, float_ms), work, None
            return
        sets = engine_sets(names)
        number = probe.passes(len(sets)) * (len(sets) - 1)
        with session.measurer.progress(f"cost: engines in {runtime.name}", number) as advance:
            ms = dict(zip(sets, probe(sets, advance), strict=True))
        cost = engine_cost(table_cost(work, session.units, table, ms[()], ms[names]), ms)
        yield cost, work, probe


def _cost_of_file(session: Session, kind: CostName) -> tuple[CostModel, Work]:
    """Return the cost of a Q/DQ file's units, and the work of its layers. Raises TaskError for a
    cost that needs a file of each set."""
    if kind not in WORK_COSTS:
        raise TaskError(
            f"Expected a PyTorch model for --cost {kind}, which times files of single sets, got a "
            "Q/DQ ONNX file; use --cost macs or --cost operations."
        )
    source: Any = session.source
    work = work_of_model(source.model, session.example)
    return WORK_COSTS[kind](work, session.units), work


def place(runtime: Runtime, threads: int) -> str:
    """Return where a time was measured. Times with different places are not comparable."""
    return f"{runtime.name} {runtime.version()}, {threads} threads, {environment().get('cpu', '?')}"


class Prober:
    """Measures the latency of whole engines, in milliseconds, for given skip-sets.

    Only a few engines take turns at a time, since many would evict each other from the caches.
    Everything in INT8 is in every group, and only the ratio to it counts. All calls are scaled to
    the speed that the machine had at the first call, so that their results are comparable.
    """

    def __init__(self, made: Candidates, runtime: Runtime, threads: int) -> None:
        self._made, self._runtime, self._threads = made, runtime, threads
        self._int8_ms: float | None = None

    def __call__(
        self, skips: Sequence[tuple[str, ...]], advance: Advance | None = None
    ) -> list[float]:
        int8_ms, ratios = self.timed(skips, self.passes(len(skips)), advance)
        self._int8_ms = self._int8_ms or int8_ms
        return [float(self._int8_ms * ratio) for ratio in np.median(ratios, axis=0)]

    def passes(self, sets: int) -> int:
        """Return how often each of this many sets is built and timed."""
        return PASSES if sets <= FEW or self._once < QUICK_MS else 1

    def timed(
        self, skips: Sequence[tuple[str, ...]], passes: int, advance: Advance | None = None
    ) -> tuple[float, np.ndarray]:
        """Return the milliseconds of everything in INT8 now, and float[passes, skips], the time of
        each set as a ratio to it."""
        rng, references, ratios = generator(), [], np.ones((passes, len(skips)))
        others = [at for at, skip in enumerate(skips) if skip]
        for ratio in ratios:
            order = rng.permutation(others).astype(int).tolist()
            for at in range(0, max(len(order), 1), AT_ONCE):
                group = order[at : at + AT_ONCE]
                ms = self._medians([*[()] * BUILDS, *(skips[member] for member in group)])
                references.append(float(np.mean(ms[:BUILDS])))
                ratio[group] = np.array(ms[BUILDS:]) / references[-1]
                if advance:
                    advance(len(group), 0)
        return float(np.median(references)), ratios

    @cached_property
    def _once(self) -> float:
        return self._medians([()])[0]

    def _medians(self, skips: Sequence[tuple[str, ...]]) -> list[float]:
        with contextlib.ExitStack() as stack:
            files = {
                skip: self._made.lowered(skip, str(number))
                for number, skip in enumerate(dict.fromkeys(skips))
            }
            inputs, engines = random_inputs(files[skips[0]]), {}
            for number, skip in enumerate(skips):
                engines[number] = self._runtime.build(files[skip], threads=self._threads)
                stack.callback(engines[number].close)
            once = float(np.median(engines[0].time_ms(inputs, WARMUP)))
            rounds = int(np.clip(TIMED_MS / once, ROUNDS, MOST_ROUNDS))
            times = interleaved(engines, inputs, rounds=rounds, warmup=WARMUP, per_turn=PER_TURN)  # type: ignore[arg-type]
        return [float(np.median(times[number])) for number in engines]  # type: ignore[index]
