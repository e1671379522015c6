"""How many layers a plan skips with recalibration and without, on MobileNetV1 x0.25.

    python benchmarks/recalibration.py --json benchmarks/results/recalibration.json

Each seed draws other splits from the 800 images that are not used for calibration. Needs
SENSITIVITY_ASSETS.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sensitivity import api
from sensitivity.config import PlanSettings, ScanSettings
from sensitivity.records import Estimate, Plan
from sensitivity.run_dir import RunDir
from sensitivity.timing.environment import environment

EXAMPLE = Path(__file__).parents[1] / "examples" / "01_mobilenet"
TASK = """\
import sys

sys.path.insert(0, {folder!r})
import importlib.util

spec = importlib.util.spec_from_file_location("mobilenet_example", {file!r})
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)


def task():
    from sensitivity.tasks.classification import classification_task

    calib, splits = example.parts({seed})
    return classification_task(example.calibrated(calib), {{"calib": calib, **splits}})
"""
Row = dict[str, Any]


def rows(drops: Sequence[str], seeds: Sequence[int]) -> Iterator[Row]:
    """One row for each split, target, and method of planning."""
    for seed in seeds:
        with tempfile.TemporaryDirectory() as name:
            file = Path(name) / "mobilenet_splits.py"
            file.write_text(
                TASK.format(folder=str(EXAMPLE), file=str(EXAMPLE / "task.py"), seed=seed)
            )
            out = Path(name) / "run"
            api.scan(ScanSettings(task=f"{file}:task", out=out))
            for drop in drops:
                for off in (True, False):
                    before = RunDir(out).info().samples
                    plan = api.plan(
                        PlanSettings(directory=out, max_drop=drop, no_recalibrate=off, search=True)
                    )
                    yield row(seed, drop, off, plan) | {
                        "samples": RunDir(out).info().samples - before
                    }


def row(seed: int, drop: str, off: bool, plan: Plan) -> Row:
    found = plan.metric
    return {
        "seed": seed,
        "max_drop": drop,
        "recalibrate": not off,
        "met": plan.met,
        "skipped": len(plan.skip),
        "recalibrated": len(plan.recalibrated),
        "skip": list(plan.skip),
        "methods": {one.unit: one.method for one in plan.recalibrated},
        "int8": found.quantized.value,
        "int8_recalibrated": found.recalibrated.value if found.recalibrated else None,
        "confirm": found.confirm.value,
        "holdout": found.holdout.value,
        "holdout_drop": _numbers(found.holdout_drop),
        "float": found.float.value,
    }


def markdown(result: dict[str, Any]) -> str:
    head = (
        "| seed | target | ranges | met | layers skipped | recalibrated | INT8, nothing skipped | "
        "plan on confirm | "
        "float there | drop on holdout |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    lines = []
    for one in result["rows"]:
        drop, low, high = (f"{100 * value:.1f}" for value in one["holdout_drop"])
        int8 = one["int8_recalibrated"] if one["int8_recalibrated"] is not None else one["int8"]
        lines.append(
            f"| {one['seed']} | {one['max_drop']} | "
            f"{'recalibrated' if one['recalibrate'] else 'as they came'} | "
            f"{'yes' if one['met'] else 'no'} | {one['skipped']} | {one['recalibrated']} | "
            f"{100 * int8:.1f} | {100 * one['confirm']:.1f} | {100 * one['float']:.1f} | {drop} "
            f"[{low}, {high}] |"
        )
    machine = ", ".join(
        f"{name} {value}"
        for name, value in result["environment"].items()
        if name in ("torch", "cpu")
    )
    return "\n".join([
        "# Layers skipped with recalibration and without: MobileNetV1 x0.25, top-1 in "
        "%", "", head, *lines, "",
        f"Command: `{result['command']}`. {machine}.", "",
    ])  # fmt: skip


def _numbers(estimate: Estimate) -> list[float]:
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high
    return [estimate.value, low, high]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Layers skipped with recalibration and without.")
    parser.add_argument(
        "--json", type=Path, help="file for all numbers; a table goes beside it, as .md"
    )
    parser.add_argument("--drops", nargs="*", default=["0.3pt", "1pt", "3pt"])
    parser.add_argument("--seeds", type=int, default=3, help="how many ways to draw the splits")
    given = parser.parse_args(arguments)
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/recalibration.py", *arguments]),
        "environment": environment(),
        "rows": [],
    }
    for one in rows(given.drops, range(given.seeds)):
        result["rows"].append(one)
        print(
            json.dumps(
                {
                    key: one[key]
                    for key in ("seed", "max_drop", "recalibrate", "met", "skipped", "confirm")
                }
            )
        )
        if given.json:  # after each row, so that a long run that is stopped leaves what it has
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps(result, indent=1) + "\n")
            given.json.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main(sys.argv[1:])
