"""Whether a plan holds what it promises: its drop on images that no choice has used.

    python benchmarks/promise.py --model mobilenet_v1 --draws 12 \
        --json promise_mobilenet_v1.json --against 37f9298

Each draw makes other splits from the labelled images. A build scans and plans on them. The plan is
then scored against the user's own float model on images that are in no split; if they are few, on
several views of each. `--against` does the same with the build of another commit on the same draws.
A file that exists already is continued. `--runs` keeps the run directories: the build of the other
commit scans and plans first, and this one plans from the same scan, as any later plan does, in half
the time. Needs SENSITIVITY_ASSETS.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from builds import NEW, ROOT, checkout
from promise_draw import MODELS

from sensitivity.stats.paired import paired_effect
from sensitivity.timing.environment import environment

TARGETS = {
    "mobilenet_v1": ("1pt",),
    "resnet20": ("0.3pt",),
    "repvgg": ("1pt",),
    "yolov8n": ("1pt",),
}

Row = dict[str, Any]


def drawn_rows(model: str, draw: int, targets: Sequence[str], tree: Path, out: Path) -> list[Row]:
    """What the build in `tree` does with one draw, in a separate process.

    out: the run directory.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        script = Path(__file__).with_name("promise_draw.py")
        command = [sys.executable, str(script), model, str(draw), str(file), str(out), *targets]
        _run(command, PYTHONPATH=str(tree))
        found: list[Row] = json.loads(file.read_text())
    return [judged(row) for row in found]


def _run(command: list[str], **variables: str) -> None:
    quiet = None if "SHOW" in os.environ else subprocess.DEVNULL
    environment_of = os.environ | variables
    subprocess.run(command, check=True, env=environment_of, stdout=quiet, stderr=quiet)  # noqa: S603


def judged(row: Row) -> Row:
    """The row with its true drop and the drop's 95 % interval in place of the single samples."""
    lost = np.asarray(row["lost"])
    drop = paired_effect(np.zeros(len(lost)), lost)
    return {name: value for name, value in row.items() if name != "lost"} | {
        "true_drop": drop.value,
        "true_low": drop.low,
        "true_high": drop.high,
        "true_n": drop.n,
    }


def allowed(target: str) -> float:
    """A target in points as a fraction of 1."""
    return float(target.removesuffix("pt")) / 100


def summaries(rows: Sequence[Row]) -> list[Row]:
    """For each build and target: by how much plans miss the target on average, which share of them
    keeps it, and how many layers they leave out.

    met_kept_share: the share that keeps the target among plans that are called met.
    """
    found = []
    for build, target in dict.fromkeys((row["build"], row["target"]) for row in rows):
        mine = [row for row in rows if (row["build"], row["target"]) == (build, target)]
        over = np.array([row["true_drop"] for row in mine]) - allowed(target)
        met = np.array([row["status"] == "met" for row in mine])
        error = over.std(ddof=1) / np.sqrt(len(over)) if len(over) > 1 else None
        found.append(
            {
                "build": build,
                "target": target,
                "draws": len(mine),
                "mean_overshoot": float(over.mean()),
                "overshoot_error": None if error is None else float(error),
                "kept_share": float(np.mean(over <= 1e-12)),
                "met": int(met.sum()),
                "met_kept_share": float(np.mean(over[met] <= 1e-12)) if met.any() else None,
                "mean_skipped": float(np.mean([row["skipped"] for row in mine])),
                "mean_repaired": float(np.mean([row["repaired"] for row in mine])),
            }
        )
    return found


HEAD = (
    "| build | target | draws | drop over the target, mean | standard error | kept | called met | "
    "layers out, mean | layers repaired, mean |\n|---|---|---|---|---|---|---|---|---|"
)
ROWS_HEAD = (
    "| draw | build | target | status | layers out | repaired | drop on confirm | true drop |\n"
    "|---|---|---|---|---|---|---|---|"
)


def markdown(result: dict[str, Any]) -> str:
    """The summary and every draw as tables, in points."""
    lines = [
        f"| {one['build']} | {one['target']} | {one['draws']} | {100 * one['mean_overshoot']:+.2f} "
        f"| {_points(one['overshoot_error'])} | {one['kept_share']:.0%} | {one['met']} | "
        f"{one['mean_skipped']:.1f} | {one['mean_repaired']:.1f} |"
        for one in result["summary"]
    ]
    each = [
        f"| {row['draw']} | {row['build']} | {row['target']} | {row['status']} | {row['skipped']} "
        f"| {row['repaired']} | {_points(row['confirm_drop'])} | {_points(row['true_drop'])} "
        f"[{_points(row['true_low'])}, {_points(row['true_high'])}] |"
        for row in sorted(result["rows"], key=lambda row: (row["target"], row["draw"]))
    ]
    machine = ", ".join(
        f"{name} {value}"
        for name, value in result["environment"].items()
        if name in ("torch", "cpu")
    )
    return "\n".join([
        f"# What plans promise and what they hold: {result['model']}", "", HEAD, *lines, "",
        ROWS_HEAD, *each, "", f"Command: `{result['command']}`. {machine}.", "",
    ])  # fmt: skip


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Do plans hold what they promise?")
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    parser.add_argument("--draws", type=int, default=12, help="how many ways to draw the splits")
    parser.add_argument("--max-drop", nargs="*", help="targets; by default the model's own")
    parser.add_argument("--json", type=Path, required=True, help="a table goes beside it, as .md")
    parser.add_argument("--against", help="a commit whose build is judged too")
    parser.add_argument(
        "--runs", type=Path, help="folder of run directories: the second build plans from one scan"
    )
    given = parser.parse_args(arguments)
    targets = given.max_drop or TARGETS[given.model]
    rows: list[Row] = json.loads(given.json.read_text())["rows"] if given.json.exists() else []
    with checkout(given.against or "HEAD") as other:
        builds = ({given.against: other} if given.against else {}) | {NEW: ROOT}
        for draw, (build, tree) in product(range(given.draws), builds.items()):
            if any((row["build"], row["draw"]) == (build, draw) for row in rows):
                continue
            with run_folder(given.runs, given.model, draw) as out:
                found = drawn_rows(given.model, draw, targets, tree, out)
            rows += [{"build": build, **row} for row in found]
            print(json.dumps(rows[-1]), flush=True)
            # after each one, so that a run that is stopped leaves what it has
            _write(given, arguments, rows)
    print(_write(given, arguments, rows))


@contextmanager
def run_folder(kept: Path | None, model: str, draw: int) -> Iterator[Path]:
    """A run directory: that of the draw, which the builds share, or a new one for each build."""
    if kept is not None:
        yield kept / f"{model}_{draw}"
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "run"


def _write(given: argparse.Namespace, arguments: Sequence[str], rows: list[Row]) -> str:
    result = {
        "command": shlex.join(["python", "benchmarks/promise.py", *arguments]),
        "environment": environment(),
        "model": given.model,
        "summary": summaries(rows),
        "rows": rows,
    }
    table = markdown(result)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(result, indent=1) + "\n")
    given.json.with_suffix(".md").write_text(table)
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
