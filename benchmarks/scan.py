"""What a scan costs: a naive loop, the exact replay and a raced scan of the same model, in turn in
one process.

    python benchmarks/scan.py --model mobilenet_v1 --json benchmarks/results/scan_mobilenet_v1.json

README.md beside this file says what each number means. Needs SENSITIVITY_ASSETS.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scan_loops import Clock, evaluated, exact_steps, floor_steps, interleaved, naive_steps
from scan_memory import SHARES, memory_of, unlimited_mib
from scan_models import SUBJECTS, Subject, count, loaded, read_anew, reordered
from scan_plans import Metric, Raced, cost_model, naive_plan, raced
from scan_table import markdown, show

from sensitivity.measure.ranking import rank_effects
from sensitivity.opened import quantized_model
from sensitivity.quantizers.base import QuantizedModel, layers
from sensitivity.records import Scores, Target, Unit
from sensitivity.simulators.base import Simulator
from sensitivity.tasks.base import Task, mean
from sensitivity.timing.environment import environment

MODEL_LAYERS, MODEL_SAMPLES = 70, 5000
"""Layers and samples of the model whose cost is computed from what was measured."""


@dataclass(frozen=True)
class Settings:
    """What to measure.

    samples: samples of `rank` to use; None for all.
    seeds, large: orders of the data for the race, on these samples and on MODEL_SAMPLES.
    memory: budgets in MiB. None takes SHARES of what is held without a budget.
    signal: as in `sensitivity scan --signal`.
    """

    samples: int | None = None
    seeds: int = 10
    large: int = 10
    memory: tuple[float, ...] = ()
    signal: str = "sqnr"
    device: str = "cpu"


@dataclass(frozen=True)
class Subjected:
    """A loaded subject and its results.

    naive, exact: the scores of each layer.
    metric: the metric of any skip set.
    """

    task: Task
    source: QuantizedModel
    units: tuple[Unit, ...]
    naive: dict[str, Scores]
    exact: dict[str, Scores]
    metric: Metric
    target: Target


def benchmark(
    subject: Subject, settings: Settings, keep: Callable[[dict[str, Any]], None] = lambda _: None
) -> dict[str, Any]:
    """All numbers, as JSON takes them; see README.md.

    keep: is called with the numbers after each part, so that a run that is cut short leaves them.
    """
    task = read_anew(loaded(subject.reference, settings.device), settings.samples)
    source = quantized_model(task.model)
    units = layers(source.quantizers)
    _warm_up(task)
    target = Target(drop=subject.points / 100 * task.full_scale)

    def race(seed: int, size: int) -> Raced:
        return raced(
            reordered(task, seed, size), source, units, target, signal=settings.signal, memory=None
        )

    runs: list[Raced] = []
    seeds = range(settings.seeds)
    racing = (runs.append(race(seed, count(task))) for seed in seeds)
    times, naive, exact = paired_loops(task, source, units, (len(seeds), racing))
    metric = _metric(
        task, {frozenset(unit.quantizers): task.aggregate(naive[unit.name]) for unit in units}
    )
    found = Subjected(task, source, units, naive, exact, metric, target)
    result = {
        "model": subject.name,
        "units": len(units),
        "samples": count(task),
        "metric": task.metric,
        **times,
    }
    result |= _agreement(found)
    keep(result)
    result |= _naive_plan(found)
    result |= _races(found, runs)
    keep(result)
    result |= _memory(subject, settings, found)
    keep(result)
    large = [race(seed, MODEL_SAMPLES) for seed in range(settings.large)]
    result["raced_large"] = [
        {
            "samples": run.samples,
            "seconds": run.seconds,
            "skip": len(run.plan.skip),
            "met": run.plan.met,
        }
        for run in large
    ]
    result["cost_model"] = {
        "layers": MODEL_LAYERS,
        "samples": MODEL_SAMPLES,
        **cost_model(MODEL_LAYERS, MODEL_SAMPLES, result, large),
    }
    return result


def _warm_up(task: Task) -> None:
    """Read every file once, so that all loops find them in the page cache, and run the model on one
    batch."""
    for _ in task.data["rank"]:
        pass
    first = next(iter(task.data["rank"]))
    one = Task(task.model, {"rank": [first]}, task.score, task.aggregate)
    for _ in range(2):
        evaluated(task.model, (), one, Clock(task.model))


def paired_loops(
    task: Task, source: QuantizedModel, units: Sequence[Unit], *others: tuple[int, Iterator[None]]
) -> tuple[dict[str, Any], dict[str, Scores], dict[str, Scores]]:
    """The times of the naive loop, the exact replay and the floor, taken in turn, and the scores of
    each layer by the first two.

    others: more steps to take in turn with these; see `interleaved`.
    """
    naive, exact, floor = (Clock(task.model) for _ in range(3))
    by_naive: dict[str, Scores] = {}
    by_exact: dict[str, Scores] = {}
    simulators: list[Simulator] = []
    batches = len(task.data["rank"])
    with tempfile.TemporaryDirectory() as folder:
        interleaved(
            (len(units), naive_steps(task.model, units, task, naive, by_naive)),
            (
                batches + 1,
                exact_steps(source, units, task, exact, by_exact, Path(folder), None, simulators),
            ),
            (batches, floor_steps(source, units, task, floor)),
            *others,
        )
    base = evaluated(task.model, (), task, Clock(task.model))
    with exact.on("effects"):
        rank_effects(
            units, [by_exact[unit.name] for unit in units], base, task.aggregate, "disable"
        )
    n, e, f = naive.seconds, exact.seconds, floor.seconds
    times = {
        "backend": simulators[0].name,
        "backend_reason": simulators[0].reason,
        "naive_s": n["wall"],
        "naive_model_s": n["model"],
        "naive_data_s": n["data"],
        "naive_score_s": n["score"],
        "naive_samples": len(units) * count(task),
        "exact_s": e["wall"] + e["effects"],
        "exact_model_s": e["model"],
        "exact_setup_s": e["setup"],
        "exact_effects_s": e["effects"],
        "exact_samples": int(e["samples"]),
        "floor_s": f["float replay"] - f["float forward"] if f else None,
        "float_forward_s": f["float forward"] if f else None,
    }
    return times, by_naive, by_exact


def _metric(task: Task, known: dict[frozenset[str], float]) -> Metric:
    """The metric of any set of disabled quantizers by a naive evaluation; each set is evaluated
    once."""

    def metric(disabled: frozenset[str]) -> float:
        if disabled not in known:
            known[disabled] = task.aggregate(
                evaluated(task.model, sorted(disabled), task, Clock(task.model))
            )
        return known[disabled]

    return metric


def _agreement(found: Subjected) -> dict[str, Any]:
    """Whether both loops give each layer the same metric: the same count for a mean, within 1e-6
    for mAP."""
    names = [unit.name for unit in found.units]
    aggregate = found.task.aggregate
    difference = max(
        abs(aggregate(found.naive[name]) - aggregate(found.exact[name])) for name in names
    )
    counts = all(found.naive[name].sum() == found.exact[name].sum() for name in names)
    return {
        "metrics_equal": counts if aggregate is mean else difference <= 1e-6,
        "scores_equal": all(np.array_equal(found.naive[name], found.exact[name]) for name in names),
        "metric_difference": difference,
        "layers": {name: aggregate(found.exact[name]) for name in names},
    }


def _naive_plan(found: Subjected) -> dict[str, Any]:
    float_metric = found.metric(frozenset(quantizer.name for quantizer in found.source.quantizers))
    gains = {unit.name: found.task.aggregate(found.naive[unit.name]) for unit in found.units}
    ranking = sorted(gains, key=lambda name: -gains[name])
    floor = found.target.floor(float_metric)
    start = time.perf_counter()
    plan = naive_plan(ranking, found.units, found.metric, floor)
    return {
        "float_metric": float_metric,
        "quantized_metric": found.metric(frozenset()),
        "target": floor,
        "naive_plan_s": time.perf_counter() - start,
        "naive_plan": plan,
        "naive_plan_units": None if plan is None else len(plan),
    }


def _races(found: Subjected, runs: Sequence[Raced]) -> dict[str, Any]:
    """The cost of the raced scans. The user's own modules evaluate each of their plans in full."""
    floor = found.target.floor(
        found.metric(frozenset(quantizer.name for quantizer in found.source.quantizers))
    )
    rows = [
        {
            "seed": seed,
            "seconds": run.seconds,
            "setup_s": run.setup_s,
            "samples": run.samples,
            "tau": _tau(found, run.ranking),
            "skip": run.plan.skip,
            "met": (reached := found.metric(frozenset(run.plan.quantizers))) >= floor,
            "metric": reached,
        }
        for seed, run in enumerate(runs)
    ]
    skipped = [len(run.plan.skip) for run in runs]
    return {
        "raced_s": float(np.mean([run.seconds for run in runs])),
        "raced_s_worst": max(run.seconds for run in runs),
        "raced_setup_s": float(np.mean([run.setup_s for run in runs])),
        "raced_samples": float(np.mean([run.samples for run in runs])),
        "raced_samples_worst": max(run.samples for run in runs),
        "tau": float(np.mean([row["tau"] for row in rows])),
        "tau_worst": min(row["tau"] for row in rows),
        "plan_met": all(row["met"] for row in rows),
        "plans_met": sum(row["met"] for row in rows),
        "plan_units": float(np.mean(skipped)),
        "plan_units_worst": max(skipped),
        "raced_runs": rows,
    }


def _tau(found: Subjected, ranking: Sequence[str]) -> float:
    """Kendall's tau-b of a ranking against the exact metrics, some of which may be equal; 0 if all
    are."""
    from scipy.stats import kendalltau

    exact = [found.task.aggregate(found.exact[name]) for name in ranking]
    tau = float(kendalltau(exact, range(len(ranking), 0, -1)).statistic)
    return 0.0 if np.isnan(tau) else tau


def _memory(subject: Subject, settings: Settings, found: Subjected) -> dict[str, Any]:
    unlimited = unlimited_mib(found.task, found.source)
    budgets = settings.memory or tuple(share * unlimited for share in SHARES)
    rows = [
        memory_of(subject.reference, settings.samples, each, unlimited, settings.device)
        for each in budgets
    ]
    return {
        "peak_mib": max((row["peak_mib"] for row in rows), default=None),
        "memory": rows,
        "memory_within": all(row["within"] for row in rows),
        "memory_results_equal": len({row["digest"] for row in rows}) <= 1,
    }


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description="Time a naive scan, the exact replay and a raced scan."
    )
    parser.add_argument("--model", required=True, choices=SUBJECTS)
    parser.add_argument(
        "--json", type=Path, help="file for all numbers; a table goes beside it, as .md"
    )
    parser.add_argument("--samples", type=int, help="of the images; all by default")
    parser.add_argument(
        "--seeds", type=int, default=Settings.seeds, help="orders of the data for the raced scan"
    )
    parser.add_argument(
        "--large", type=int, default=Settings.large, help=f"the same on {MODEL_SAMPLES} samples"
    )
    parser.add_argument("--memory", type=float, nargs="*", default=(), help="budgets in MiB")
    parser.add_argument("--signal", default=Settings.signal, choices=("sqnr", "kl", "fisher"))
    parser.add_argument("--device", default=Settings.device, choices=("cpu", "cuda"))
    given = parser.parse_args(arguments)
    settings = Settings(
        given.samples, given.seeds, given.large, tuple(given.memory), given.signal, given.device
    )
    command = shlex.join(["python", "benchmarks/scan.py", *arguments])
    before = environment()  # the load that other work puts on the machine, not this benchmark

    def keep(found: dict[str, Any]) -> None:
        if given.json:
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(
                json.dumps({"command": command, "environment": before, **found}, indent=1) + "\n"
            )

    result = {
        "command": command,
        "environment": before,
        **benchmark(SUBJECTS[given.model], settings, keep),
    }
    keep(result)
    if given.json:
        given.json.with_suffix(".md").write_text(markdown(result))
    show(result)


if __name__ == "__main__":
    main(sys.argv[1:])
