"""From a ranking to a plan, by hand and by a race, and what both would cost at other sizes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sensitivity.journal.journal import open_journal
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.raced import SIGNAL_SAMPLES, Budget, raced_scan
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.records import Plan, Target, Unit
from sensitivity.run_dir import RunDir
from sensitivity.search.choose import choose_plan
from sensitivity.session import Session
from sensitivity.simulators.base import Simulator
from sensitivity.tasks.base import Task

Metric = Callable[[frozenset[str]], float]
"""Disabled quantizers -> the metric on all images."""


@dataclass(frozen=True)
class Raced:
    """The cost of one raced scan with its plan.

    setup_s: the seconds spent on tracing and checking the model, which are part of all seconds.
    """

    seconds: float
    setup_s: float
    samples: int
    ranking: tuple[str, ...]
    plan: Plan


def raced(
    task: Task,
    source: QuantizedModel,
    units: Sequence[Unit],
    target: Target,
    *,
    signal: str,
    memory: int | None,
) -> Raced:
    """Scan and plan as `sensitivity run` does with --signal, through a journal on disk, with a new
    simulator."""
    from sensitivity.simulators.choose import simulator_for

    start = time.perf_counter()
    setup: list[float] = []

    def simulator(_: object) -> Simulator:
        before = time.perf_counter()
        made = simulator_for(source, example, memory=memory)
        setup.append(time.perf_counter() - before)
        return made

    with tempfile.TemporaryDirectory() as folder:
        example = next(iter(task.data["rank"]))[0]
        with open_journal(
            Path(folder) / "journal.jsonl", {"benchmark": "raced"}, resume=False
        ) as journal:
            measurer = Measurer(task, simulator, journal)
            session = Session(
                "", task, source, tuple(units), RunDir(Path(folder)), measurer, example, ()
            )
            scanned = raced_scan(session.study, "disable", session.signal(signal), Budget())
            plan = choose_plan(session.study, scanned, target)
        ranking = tuple(effect.unit for effect in scanned.effects)
        return Raced(time.perf_counter() - start, sum(setup), measurer.samples, ranking, plan)


def naive_plan(
    ranking: Sequence[str], units: Sequence[Unit], metric: Metric, floor: float
) -> tuple[str, ...] | None:
    """The shortest prefix of the ranking that meets the target, found by adding one layer at a
    time; None if no prefix does."""
    names = {unit.name: unit.quantizers for unit in units}
    for size in range(len(ranking) + 1):
        if metric(frozenset(name for unit in ranking[:size] for name in names[unit])) >= floor:
            return tuple(ranking[:size])
    return None


def cost_model(
    layers: int, samples: int, at: Mapping[str, float], large: Sequence[Raced]
) -> dict[str, dict[str, float] | None]:
    """The samples forwarded and the seconds at another size, from what was measured.

    The naive loop takes layers x samples, each as long as measured. The exact scan takes as many,
    each as long as measured without the setup, and the setup once. The raced scan takes the mean of
    what was measured, and the signal of the other layers with SIGNAL_SAMPLES samples each, since
    the number of layers that race does not depend on how many there are; it is None without such
    runs.

    at: naive_s, exact_s and exact_setup_s, measured with `units` layers on `samples` samples.
    large: raced scans with their plans on the wanted number of samples, with `units` layers.
    """
    measured = at["units"] * at["samples"]
    forwarded = layers * samples
    setup = at["exact_setup_s"]
    return {
        "naive": {"samples": forwarded, "seconds": forwarded * at["naive_s"] / measured},
        "exact": {
            "samples": forwarded,
            "seconds": setup + forwarded * (at["exact_s"] - setup) / measured,
        },
        "raced": _raced_cost((layers - at["units"]) * SIGNAL_SAMPLES, large) if large else None,
    }


def _raced_cost(more: float, large: Sequence[Raced]) -> dict[str, float]:
    spent = sum(run.samples for run in large)
    per_sample = sum(run.seconds - run.setup_s for run in large) / spent
    mean = spent / len(large) + more
    setup = sum(run.setup_s for run in large) / len(large)
    worst = max(run.samples for run in large) + more
    return {"samples": mean, "samples_worst": worst, "seconds": setup + mean * per_sample}
