"""What a skip-set costs to run, for the planners: from the graph, from a table of measured layers,
or from engines."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from sensitivity.config import CostName
from sensitivity.cost.engines import engine_cost, engine_sets
from sensitivity.cost.model import table_cost, work_cost
from sensitivity.cost.shapes import work_of
from sensitivity.cost.table import FILE, measured_table, to_measure
from sensitivity.errors import TaskError
from sensitivity.exporters.lower import TARGETS, LowerTarget
from sensitivity.measure.progress import Advance
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
"""Times that each set is built and timed, in other groups; once where there are more than `FEW` and
one takes longer than `QUICK_MS`: so each unit alone may be timed once, the plans to choose among
never."""

AT_ONCE = 6
BUILDS = 2
"""Of everything in INT8, which the others of a group are compared with: two builds of one file
differ by some percent."""

TIMED_MS = 200.0
"""Of each engine at least, within the rounds: medians of engines that take a tenth of a millisecond
need many of them."""


@contextmanager
def priced(
    session: Session, kind: CostName, runtime: Runtime, threads: int | None
) -> Iterator[tuple[CostModel, Probe | None]]:
    """The cost of leaving units out, and for `engine` what measures whole engines, inside the
    `with`.

    Raises TaskError for a task without example inputs, ExportError where the model cannot be
    exported, and what the runtime raises.
    """
    from sensitivity.exporters.candidates import Candidates

    if form_of(session.source) == "onnx":
        raise TaskError(
            "Expected a PyTorch model for --cost and the cost planner, which export each set, got "
            "a Q/DQ ONNX file; use --planner greedy without --cost."
        )
    if session.example is None:
        raise TaskError(
            "Expected the task to have example_inputs for --planner cost, got None; add one batch "
            "of inputs to the EvaluateTask."
        )
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
        work = work_of(made.canonical(()))
        if kind == "macs":
            yield work_cost(work, session.units), None
            return
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
            yield table_cost(work, session.units, table, int8_ms, float_ms), None
            return
        sets = engine_sets(names)
        number = probe.passes(len(sets)) * (len(sets) - 1)
        with session.measurer.progress(f"cost: engines in {runtime.name}", number) as advance:
            ms = dict(zip(sets, probe(sets, advance), strict=True))
        yield engine_cost(table_cost(work, session.units, table, ms[()], ms[names]), ms), probe


def place(runtime: Runtime, threads: int) -> str:
    """Where a time was measured; two that differ in any of these are not comparable."""
    return f"{runtime.name} {runtime.version()}, {threads} threads, {environment().get('cpu', '?')}"


class Prober:
    """Milliseconds of the whole engine with each skip-set left out.

    A few engines at a time take turns, for many would drive each other out of the caches;
    everything in INT8 is in every such group, and what the others take more or less than it is what
    counts. All calls speak of the pace that the machine had at the first one, so that what they say
    can be compared.
    """

    def __init__(self, made: Candidates, runtime: Runtime, threads: int) -> None:
        self._made, self._runtime, self._threads = made, runtime, threads
        self._int8_ms: float | None = None

    def __call__(
        self, skips: Sequence[tuple[str, ...]], advance: Advance | None = None
    ) -> list[float]:
        int8_ms, ratios = self.timed(skips, self.passes(len(skips)), advance)
        self._int8_ms = self._int8_ms or int8_ms
        return [float(self._int8_ms * one) for one in np.median(ratios, axis=0)]

    def passes(self, sets: int) -> int:
        """How often each of so many sets is built and timed."""
        return PASSES if sets <= FEW or self._once < QUICK_MS else 1

    def timed(
        self, skips: Sequence[tuple[str, ...]], passes: int, advance: Advance | None = None
    ) -> tuple[float, np.ndarray]:
        """Milliseconds of everything in INT8 now, and float[passes, skips]: what each set takes, in
        parts of that."""
        rng, references, ratios = generator(), [], np.ones((passes, len(skips)))
        others = [at for at, skip in enumerate(skips) if skip]
        for ratio in ratios:
            order = rng.permutation(others).astype(int).tolist()
            for at in range(0, max(len(order), 1), AT_ONCE):
                group = order[at : at + AT_ONCE]
                ms = self._medians([*[()] * BUILDS, *(skips[one] for one in group)])
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
