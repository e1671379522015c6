"""Cost and accuracy of each planner's skip set, compared with the methods of other tools, for
several targets.

    python benchmarks/planners.py --model demo --json benchmarks/results/planners_demo.json

Every row is written as soon as it is complete. See README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from planners_peers import NncfPlanner, PrefixPlanner
from planners_table import RECALIBRATED, markdown

from sensitivity.config import UnitChoices
from sensitivity.measure.ranking import estimate, gain, per_sample
from sensitivity.measure.scan import Scan, scan
from sensitivity.planners.base import Goal, Planner
from sensitivity.planners.exhaustive import LARGEST
from sensitivity.records import CostModel, Plan, Target
from sensitivity.registry import load
from sensitivity.search.choose import SearchOptions, choose_plan
from sensitivity.search.judge import SplitJudge
from sensitivity.session import Session, open_session
from sensitivity.steps.cost_model import Prober, cost_and_probe
from sensitivity.steps.plan import cheapest, may_own_cost_less
from sensitivity.steps.recalibrate import Recalibration, recalibration
from sensitivity.timing.environment import environment, usable_cores

EXAMPLES = Path(__file__).parents[1] / "examples"
MODELS = {
    "mobilenet_v1": f"{EXAMPLES}/01_mobilenet/task.py:task",
    "yolov8n": f"{EXAMPLES}/03_yolov8n/task.py:mostly_held_out",
}
WORST = 300
"""Samples in NNCF's ranking subset."""

ROWS = "rows.json"

BUILDS = 5
"""Builds of every plan's engine, each of which is timed: two builds of one file differ by some per
cent."""


@dataclass(frozen=True)
class Found:
    """One planner's plan for one target.

    samples: samples forwarded for it, without the scans. Results that were known cost nothing.
    """

    planner: str
    skip: tuple[str, ...]
    met: bool
    confirm_drop: float
    holdout_drop: float
    holdout_low: float | None
    holdout_high: float | None
    predicted_ms: float | None
    tries: int
    samples: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=[*MODELS, "demo", "instances"], required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--points", type=float, nargs="+", default=[0.3, 1.0, 3.0])
    parser.add_argument("--runtime", default="openvino")
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--size", type=int, default=640, help="Side of YOLOv8n's images in pixels.")
    parser.add_argument("--run", type=Path, help="A folder for the journal, to go on after a stop.")
    options = parser.parse_args()
    os.environ["YOLOV8N_SIZE"] = str(options.size)
    head = {
        "command": "python " + " ".join(sys.argv),
        "machine": environment(),
        "model": options.model,
    }
    if options.model == "instances":
        return write(options.json, head | {"instances": list(instances(options.instances))})
    with tempfile.TemporaryDirectory() as folder:
        out = options.run or Path(folder) / "run"
        with open_session(
            reference_of(options.model, out), out, resume=True, choices=UnitChoices()
        ) as session:
            measure(session, options, head)
    return None


def reference_of(model: str, out: Path) -> str:
    if model == "demo":
        from sensitivity.workflows.demo import prepare

        return prepare(out)
    return MODELS[model]


def write(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n")
    file.with_suffix(".md").write_text(markdown(content))


def measure(session: Session, options: argparse.Namespace, head: Mapping[str, Any]) -> None:
    """Find the plans for every target, then time all of them in one interleaved run. Rows are
    written as they are complete."""
    runtime = load("runtimes", options.runtime)()
    start = time.perf_counter()
    scans = {mode: scan(session.study, mode) for mode in ("disable", "enable")}
    head = {**head, "units": len(session.units), "runtime": options.runtime}
    head |= {
        "splits": {split: len(known(session, split)) for split in ("rank", "confirm", "holdout")}
    }
    head |= {"scan_seconds": time.perf_counter() - start, "metric": session.task.metric}
    with cost_and_probe(session, "engine", runtime, usable_cores()) as (cost, probe):
        assert isinstance(probe, Prober), "engines are measured for --cost engine"
        rows: list[dict[str, Any]] = []
        kept = {(row["points"], row["planner"]): row for row in kept_rows(session.run_dir.path)}
        for points in options.points:
            for name, way in ways(session, scans, points, cost, probe).items():
                row = kept.get((points, name)) or {
                    "points": points,
                    **asdict(way()),
                    "planner": name,
                }
                rows.append(row | {"predicted_ms": cost.of(row["skip"])})
                session.run_dir.write(ROWS, rows)
                write(options.json, {**head, "rows": rows})
                print(
                    points, name, len(row["skip"]), row["met"], rows[-1]["predicted_ms"], flush=True
                )
        write(options.json, {**head, "rows": rows, **measured(session, rows, probe)})


def kept_rows(out: Path) -> list[dict[str, Any]]:
    """Rows of the same run before it was stopped. They are not measured again, since their results
    are in the journal and would seem to cost nothing."""
    file = out / ROWS
    return json.loads(file.read_text()) if file.exists() else []


def ways(
    session: Session, scans: Mapping[str, Scan], points: float, cost: CostModel, probe: Prober
) -> dict[str, Callable[[], Found]]:
    """The planners by name, in the order in which they run. The journal is shared, so later ones
    pay less."""
    target = Target(drop=points / 100 * session.task.full_scale)
    isolated = [effect.unit for effect in scans["enable"].effects]
    scanned, signal = scans["disable"], load("signals", "sqnr")
    greedy, options = (
        SearchOptions("greedy", cost, None, signal),
        SearchOptions("cost", cost, probe, signal),
    )
    found: dict[str, Callable[[], Found]] = {
        "ranked prefix": lambda: peer(session, PrefixPlanner(), isolated, target, cost),
        "greedy": lambda: ours(session, scanned, target, greedy, cost),
        "cost": lambda: ours(session, scanned, target, options, cost),
        RECALIBRATED: lambda: recalibrated(session, scanned, target, options, cost),
    }
    if len(session.units) <= LARGEST:
        found["exhaustive"] = lambda: ours(
            session, scanned, target, SearchOptions("exhaustive", cost), cost
        )
    # Last, for it may take longest.
    found["NNCF-style greedy"] = lambda: peer(
        session, NncfPlanner(worst_samples(session)), isolated, target, cost
    )
    return found


def ours(
    session: Session, scanned: Scan, target: Target, options: SearchOptions, cost: CostModel
) -> Found:
    start, before = time.perf_counter(), session.measurer.samples
    return row_of(session, [chosen(session, scanned, target, options)], 0, before, start, cost)


def recalibrated(
    session: Session, scanned: Scan, target: Target, options: SearchOptions, cost: CostModel
) -> Found:
    """Plan as `sensitivity plan` does: if layers are left out under other ranges, the search is
    repeated with the original ranges where that may give a cheaper plan."""
    start, before = time.perf_counter(), session.measurer.samples
    new, own = recalibration(session, scanned, target, ()), Recalibration("", (), scanned)
    plans = [chosen_under(session, new, target, options)]
    if new.units and plans[0].outside and may_own_cost_less(session, plans[0]):
        plans.append(chosen_under(session, own, target, options))
    best = cheapest(plans, cost, options.probe)
    with session.measurer.with_ranges((new, own)[best].ranges):
        return row_of(session, plans, best, before, start, cost)


def chosen_under(
    session: Session, ranges: Recalibration, target: Target, options: SearchOptions
) -> Plan:
    with session.measurer.with_ranges(ranges.ranges):
        return chosen(session, ranges.scan, target, options)


def chosen(session: Session, scanned: Scan, target: Target, options: SearchOptions) -> Plan:
    return choose_plan(session.study, scanned, target, options)


def row_of(
    session: Session, plans: Sequence[Plan], best: int, before: int, start: float, cost: CostModel
) -> Found:
    """The best of some plans, with the samples and seconds of all of them."""
    spent, took = session.measurer.samples - before, time.perf_counter() - start
    tries = sum(len(plan.path) for plan in plans)
    return found(
        session, plans[best].planner, plans[best].skip, plans[best].met, tries, spent, took, cost
    )


def peer(
    session: Session, planner: Planner, ranking: Sequence[str], target: Target, cost: CostModel
) -> Found:
    start, before = time.perf_counter(), session.measurer.samples
    (float_,) = session.measurer.scores([session.study.float_variant], "confirm", "float")
    level = session.measurer.aggregate(float_)
    floor = target.floor(level)
    choice = planner.choose(ranking, SplitJudge(session.study, floor), Goal(floor, level))
    spent, took = session.measurer.samples - before, time.perf_counter() - start
    return found(
        session, planner.name, choice.skip, choice.met, len(choice.path), spent, took, cost
    )


def found(
    session: Session,
    planner: str,
    skip: tuple[str, ...],
    met: bool,
    tries: int,
    samples: int,
    seconds: float,
    cost: CostModel,
) -> Found:
    variants = [session.study.float_variant, session.study.skip_variant(skip)]
    aggregate = session.task.aggregate
    drops = {}
    for split in ("confirm", "holdout"):
        float_, own = session.measurer.scores(variants, split, split)
        drops[split] = gain(own, float_, aggregate)
    held = drops["holdout"]
    ms = cost.of(skip) if cost.unit == "ms" else None
    values = (drops["confirm"].value, held.value, held.low, held.high, ms, tries, samples, seconds)
    return Found(planner, skip, met, *values)


def worst_samples(session: Session) -> Any:
    """The metric on the samples of `confirm` where everything in INT8 loses most against float.
    Ties are taken in the order of the samples."""
    base = session.study.baselines
    pair = session.measurer.scores([base["float"], base["quantized"]], "confirm", "worst samples")
    float_, quantized = (per_sample(scores, session.task.aggregate) for scores in pair)
    # a metric that is no mean has no worst samples of its own: all of them rank
    if len(float_) != len(pair[0]):
        chosen = np.arange(len(pair[0]))
    else:
        chosen = np.argsort(quantized - float_, kind="stable")[:WORST]

    def metric(skip: tuple[str, ...]) -> float:
        variant = session.study.skip_variant(skip)
        (scores,) = session.measurer.scores([variant], "confirm", "NNCF: rank")
        return session.measurer.aggregate(scores[chosen])

    return metric


def known(session: Session, split: str) -> Any:
    (scores,) = session.measurer.scores([session.study.float_variant], split, split)
    return scores


def measured(session: Session, rows: Sequence[Mapping[str, Any]], probe: Prober) -> dict[str, Any]:
    """Time every distinct skip set in several builds, beside all of INT8 and float, a few engines
    in turn."""
    every = tuple(unit.name for unit in session.units)
    sets = list(dict.fromkeys([(), every, *(tuple(sorted(row["skip"])) for row in rows)]))
    int8_ms, ratios = probe.timed(sets, BUILDS)
    of = dict(zip(sets, (int8_ms * ratios).T.tolist(), strict=True))
    float_ = estimate(known(session, "holdout"), session.task.aggregate)
    return {
        "int8_ms": int8_ms,
        "float_ms": float(np.mean(of[every])),
        "builds_ms": [of[tuple(sorted(row["skip"]))] for row in rows],
        "float_holdout": asdict(float_),
    }


def instances(number: int) -> Iterator[dict[str, Any]]:
    """Compare the cost planner's plan with the best plan, on random small problems with
    interactions."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support.planner_instances import instance

    from sensitivity.planners.cost import CostPlanner
    from sensitivity.planners.greedy import GreedyPlanner

    for seed in range(number):
        one = instance(seed)
        best = one.best_cost()
        row: dict[str, Any] = {"seed": seed, "units": len(one.units), "best": best}
        for planner in (CostPlanner(), GreedyPlanner()):
            choice = planner.choose(one.ranking, one.judge, one.goal)
            row[planner.name] = {
                "excess": one.cost.of(choice.skip) / best - 1,
                "tries": len(choice.path),
                "met": choice.met,
                "holds": one.loss(frozenset(choice.skip)) <= one.allowed,
            }
        yield row


if __name__ == "__main__":
    main()
