"""How long whole jobs take compared with the build of another commit: seconds, memory, and the
plan.

    python benchmarks/whole.py --model mobilenet_v1 --against c796c43 --json whole_mobilenet_v1.json

Each turn runs the plain command of the model with both builds, one after the other, each in a
separate process and a new run directory. The build that goes first alternates between turns. A file
that exists already is continued. Needs SENSITIVITY_ASSETS for all models but the demo, and for
yolov8n_onnx a Q/DQ file of YOLOv8n in YOLOV8N_QDQ.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from builds import NEW, ROOT, checkout
from scipy import stats

from sensitivity.timing.environment import environment

Row = dict[str, Any]

COMMANDS = {
    "demo": "demo --out {out}",
    "mobilenet_v1": "run {tree}/examples/01_mobilenet/task.py:task --max-drop 1pt --out {out}",
    "resnet20": "run {tree}/examples/02_resnet20/task.py:task --max-drop 1pt --out {out}",
    "yolov8n": "run {tree}/examples/03_yolov8n/task.py:task --max-drop 0.3pt --out {out}",
    "yolov8n_onnx": "run {qdq} --data {assets}/coco/val --max-drop 1pt --out {out}",
}
"""Model -> its plain command, after `sensitivity`."""

WITH_PEAK = (
    "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
    "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
    "print(used.ru_maxrss, used.ru_utime + used.ru_stime, file=sys.stderr); sys.exit(code)"
)
"""Runs a command and prints its largest memory in KiB and its processor seconds at the end. It is a
separate, small process, since the system counts for a new process what the process that starts it
holds."""

STANDING = {"met": 2, "not proven": 1, "missed": 0}
"""Words for a plan -> their rank; higher is better."""


def command_of(model: str, tree: Path, out: Path) -> list[str]:
    """The words of the plain command. Raises KeyError for a folder or file that is not given."""
    places = {"tree": str(tree), "out": str(out)}
    if "{assets}" in COMMANDS[model]:
        places["assets"] = os.environ["SENSITIVITY_ASSETS"]
    if "{qdq}" in COMMANDS[model]:
        places["qdq"] = os.environ["YOLOV8N_QDQ"]
    return [word.format(**places) for word in COMMANDS[model].split()]


def timed(model: str, tree: Path) -> Row:
    """Run one whole job: its seconds, its largest resident memory in MiB, and its plan.

    Raises RuntimeError with the end of the command's output if it fails. A missed target is not a
    failure.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        # -P: a build in the working directory is not taken for the one in `tree`.
        words = [sys.executable, "-P", "-m", "sensitivity", *command_of(model, tree, out)]
        start = time.perf_counter()
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-S", "-c", WITH_PEAK, *words],
            env=os.environ | {"PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
        said, _, used = done.stderr.rstrip("\n").rpartition("\n")
        if done.returncode not in (0, 2):
            raise RuntimeError(f"{shlex.join(words)} failed: {(done.stdout + said)[-500:]}")
        plan = json.loads((out / "plan.json").read_text())
    peak_kib, processor_s = used.split()
    measured = {
        "seconds": seconds,
        "processor_s": float(processor_s),
        "peak_mib": int(peak_kib) / 1024,
    }
    return {**measured, **plan_facts(plan)}


def plan_facts(plan: Row) -> Row:
    """How many units a plan leaves out, and whether it is met; older builds only say the latter."""
    verdict = (plan.get("verdict") or {}).get("accuracy")
    return {"skipped": len(plan["skip"]), "status": verdict or ("met" if plan["met"] else "missed")}


def same_or_better(mine: Row, other: Row) -> bool:
    """Whether a plan leaves out no more units, or is called by a better word.

    A build that does not know "not proven" calls a plan met by the samples that chose it, which is
    no better than "not proven".
    """
    fewer = mine["skipped"] <= other["skipped"]
    return fewer or STANDING[mine["status"]] > STANDING[other["status"]]


def summary(turns: Sequence[Row]) -> Row:
    """The figures over all turns.

    ratio: the other build's seconds over this one's, the geometric mean over turns with a 95 %
        interval; None with only one turn.
    """
    mine, other = ([turn[build] for turn in turns] for build in (NEW, "against"))
    logs = np.log([b["seconds"] / a["seconds"] for a, b in zip(mine, other, strict=True)])
    processor = [float(np.median([row["processor_s"] for row in rows])) for rows in (mine, other)]
    low = high = None
    if len(logs) > 1:
        low, high = np.exp(stats.t.interval(0.95, len(logs) - 1, logs.mean(), stats.sem(logs)))
    return {
        "turns": len(turns),
        "seconds": float(np.median([row["seconds"] for row in mine])),
        "against_seconds": float(np.median([row["seconds"] for row in other])),
        "processor_s": processor[0],
        "against_processor_s": processor[1],
        "ratio": float(np.exp(logs.mean())),
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
        "peak_mib": max(row["peak_mib"] for row in mine),
        "against_peak_mib": max(row["peak_mib"] for row in other),
        "plan_same_or_better": all(map(same_or_better, mine, other)),
    }


def markdown(result: Row) -> str:
    """The summary and each turn as tables."""
    found = result["summary"]
    interval = "" if found["low"] is None else f" [{found['low']:.2f}, {found['high']:.2f}]"
    lines = [
        f"| {number} | {row[NEW]['seconds']:.1f} | {row['against']['seconds']:.1f} | "
        f"{row[NEW]['skipped']}, {row[NEW]['status']} | "
        f"{row['against']['skipped']}, {row['against']['status']} |"
        for number, row in enumerate(result["turns"], 1)
    ]
    machine = ", ".join(f"{key} {result['environment'].get(key)}" for key in ("torch", "cpu"))
    return "\n".join([
        f"# The whole job: {result['model']}", "",
        f"{found['ratio']:.2f}{interval} times as fast as {result['against']}: "
        f"{found['seconds']:.1f} s against {found['against_seconds']:.1f} s (medians of "
        f"{found['turns']}), and {found['processor_s']:.0f} processor seconds against "
        f"{found['against_processor_s']:.0f}; largest memory {found['peak_mib']:.0f} MiB against "
        f"{found['against_peak_mib']:.0f}.", "",
        "| turn | seconds | seconds of the other | layers out | layers out of the other |",
        "|---|---|---|---|---|", *lines, "",
        f"Command: `{result['command']}`. {machine}, load {result['load']:.1f} at the start.", "",
    ])  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Time whole jobs of two builds in turn.")
    parser.add_argument("--model", choices=sorted(COMMANDS), required=True)
    parser.add_argument("--against", required=True, help="a commit whose build is timed too")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, required=True, help="a table goes beside it, as .md")
    given = parser.parse_args(arguments)
    before = json.loads(given.json.read_text()) if given.json.exists() else {}
    turns: list[Row] = before.get("turns", [])
    load = before.get("load", os.getloadavg()[0])
    with checkout(given.against) as other:
        builds = {NEW: ROOT, "against": other}
        while len(turns) < given.turns:
            order = [*builds] if len(turns) % 2 else [*reversed(builds)]
            turns.append({build: timed(given.model, builds[build]) for build in order})
            result = {
                "command": shlex.join(["python", "benchmarks/whole.py", *arguments]),
                "environment": environment(),
                "load": load,
                "model": given.model,
                "against": given.against,
                "summary": summary(turns),
                "turns": turns,
            }
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps(result, indent=1) + "\n")
            given.json.with_suffix(".md").write_text(markdown(result))
            print(json.dumps(turns[-1]), flush=True)
    print(given.json.with_suffix(".md").read_text())


if __name__ == "__main__":
    main(sys.argv[1:])
