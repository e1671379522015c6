"""How well a scan spreads over many workers, from a simulation that uses measured times.

    python benchmarks/scaling.py examples/01_mobilenet/task.py:task \\
        --json benchmarks/results/scaling.json

The time to open the task, and the times of some batches with all variants of a scan, are measured
in one process. Then the project's own code hands the batches of a larger data set to workers, takes
their answers, writes the journal and ranks the units. Only the workers are simulated: each is busy
for one of the measured times, on a clock that also counts the real time of everything that the
leading process does. Machines are taken to be alike, and to be connected by a network of
`BANDWIDTH` and `DELAY`.
"""

from __future__ import annotations

import argparse
import json
import pickle
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.config import UnitChoices
from sensitivity.executors.base import Reply, Start, WorkerPool
from sensitivity.journal.journal import open_journal
from sensitivity.measure.forward import Used
from sensitivity.measure.parallel import ParallelMeasurer
from sensitivity.measure.progress import silent
from sensitivity.measure.reader import Reader
from sensitivity.measure.scan import scan
from sensitivity.measure.study import Study
from sensitivity.measure.work import Measured, Work
from sensitivity.records import Quantizer, Unit
from sensitivity.session import open_session
from sensitivity.tasks.base import Task
from sensitivity.timing.environment import environment

WORKERS = (2, 8, 16, 64, 128)
IMAGES = (10_000, 100_000, 1_000_000)
BATCHES = 5
"""Number of batches whose times are measured."""

BANDWIDTH = 1e9 / 8
"""Bytes per second between the leading process and each worker: gigabit Ethernet."""

DELAY = 0.001
"""Seconds that a message takes besides."""


@dataclass(frozen=True)
class Job:
    """What was measured of a task.

    opening_s: seconds to open the task, with what the first batch takes longer than others.
    batch_s: seconds of each measured batch, all variants of a scan.
    size: samples of a batch.
    scores: the scores float64[size] of each variant on one of the batches.
    units, quantizers: of the model.
    """

    opening_s: float
    batch_s: tuple[float, ...]
    size: int
    scores: list[NDArray[np.float64]]
    units: tuple[Unit, ...]
    quantizers: tuple[Quantizer, ...]


def measured_job(reference: str, batches: int) -> Job:
    """Open a task in this process and measure the variants of a scan on its first batches."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        choices = UnitChoices()
        with open_session(reference, Path(folder), resume=False, choices=choices) as session:
            opening_s = time.perf_counter() - start
            study, measurer = session.study, session.measurer
            units = [study.unit_variant(unit, "disable") for unit in study.units]
            variants = [*study.baselines.values(), *units]
            reader, seconds = Reader(session.task, "rank"), list[float]()
            with silent("rank", 1 + batches) as advance:
                for number in range(1 + batches):
                    start = time.perf_counter()
                    scores = measurer.batch(variants, "rank", number, reader, advance)
                    seconds.append(time.perf_counter() - start)
            first, *others = seconds
            opening_s += max(0.0, first - float(np.median(others)))
            return Job(
                opening_s, tuple(others), len(scores[0]), scores, study.units, study.quantizers
            )


@dataclass
class Clock:
    """The time of the simulation: what the leading process spends passes as it does, and waiting
    for workers takes none of it.

    now: seconds since the start.
    """

    now: float = 0.0
    _since: float = field(default_factory=time.perf_counter)

    def tick(self) -> float:
        """Add the real time since the last call, and return the time."""
        real = time.perf_counter()
        self.now += real - self._since
        self._since = real
        return self.now

    def wait_until(self, moment: float) -> None:
        """Let the time pass that the leading process would wait."""
        self.now = max(self.now, moment)
        self._since = time.perf_counter()


class SimulatedWorker:
    """A worker that is busy for a measured time and answers with measured scores."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._answer: Any = None
        self.busy_until = cluster.clock.tick() + cluster.job.opening_s

    def give(self, work: Work) -> None:
        """Begin with a piece of work."""
        cluster = self._cluster
        self._answer, seconds = cluster.answered(work)
        self.busy_until = cluster.clock.tick() + seconds

    def reply(self) -> Reply:
        """Return the answer, which is there."""
        return True, self._answer

    def stop(self) -> None:
        """End, which takes no time."""


class Cluster:
    """An executor whose workers are simulated.

    job: the measured job.
    batches: number of batches of the data set. Each takes one of the measured times, the same for
        any number of workers.
    """

    shared = 1

    def __init__(self, job: Job, batches: int) -> None:
        self.job = job
        self.clock = Clock()
        self._batch_s = np.random.default_rng(0).choice(job.batch_s, size=batches)
        self._sent_s = len(pickle.dumps(job.scores)) / BANDWIDTH + 2 * DELAY

    def start(self, start: Start) -> SimulatedWorker:
        """Return a worker that opens the task."""
        return SimulatedWorker(self)

    def ready(self, workers: Sequence[SimulatedWorker]) -> list[SimulatedWorker]:
        """Wait for the first worker that is done, and return all that are by then."""
        self.clock.tick()
        self.clock.wait_until(min(worker.busy_until for worker in workers))
        return [worker for worker in workers if worker.busy_until <= self.clock.now]

    def close(self) -> None:
        """Release nothing."""

    def answered(self, work: Work) -> tuple[Measured, float]:
        """Return the answer to a piece of work, and the seconds that it takes."""
        job, share = self.job, len(work.variants) / len(self.job.scores)
        scores = list(enumerate(job.scores[: len(work.variants)]))
        answer = Measured(scores, str(work.batch), job.size, Used("replay", "", ()))
        return answer, share * (float(self._batch_s[work.batch]) + self._sent_s)


def scanned_s(job: Job, workers: int, images: int) -> float:
    """Return the seconds of a scan, from opening the workers to the ranking of all units."""
    batches = max(1, images // job.size)
    splits = {name: range(batches) for name in ("rank", "confirm", "holdout")}
    task = Task(None, splits, lambda outputs, targets: outputs)
    cluster = Cluster(job, batches)
    with tempfile.TemporaryDirectory() as folder:
        journal = open_journal(Path(folder) / "journal.jsonl", {"model": "measured"}, resume=False)
        with journal, WorkerPool(cluster, workers, Start("", None)) as pool:
            measurer = ParallelMeasurer(task, _no_simulator, journal, pool)
            scan(Study(measurer, job.units, job.quantizers), "disable")
            return cluster.clock.tick()


def _no_simulator(candidates: Any) -> Any:
    raise AssertionError("the leading process forwards nothing")


def rows_of(job: Job, workers: Sequence[int], images: Sequence[int]) -> list[dict[str, Any]]:
    """Return one row for each number of images and workers.

    efficiency: seconds of one worker over those of all workers together.
    """
    rows = []
    for count in images:
        alone_s = scanned_s(job, 1, count)
        for number in workers:
            seconds = scanned_s(job, number, count)
            row = {
                "images": count,
                "workers": number,
                "hours": seconds / 3600,
                "worker_hours": number * seconds / 3600,
                "efficiency": alone_s / (number * seconds),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def markdown(result: dict[str, Any]) -> str:
    """Return the table, with what it was computed from."""
    lines = [
        f"| {row['images']:,} | {row['workers']} | {row['hours']:.2f} | {row['worker_hours']:.1f} "
        f"| {row['efficiency']:.2f} |"
        for row in result["rows"]
    ]
    machine = result["environment"]
    seconds = result["batch_s"]
    return "\n".join([
        "# A scan on many workers, simulated", "",
        f"`{result['command']}`", "",
        f"Measured: {result['opening_s']:.1f} s to open the task; {min(seconds):.2f} to "
        f"{max(seconds):.2f} s for {result['variants']}",
        f"variants on a batch of {result['size']} images, on one core of {machine.get('cpu')}.",
        "Efficiency: seconds of one worker over those of all workers together.", "",
        "| images | workers | hours | worker-hours | efficiency |", "|---|---|---|---|---|",
        *lines, "",
    ])  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Simulate a scan on many workers.")
    parser.add_argument("task", help="path/to/task.py:function")
    parser.add_argument("--json", type=Path, required=True, help="a table goes beside it, as .md")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES)
    given = parser.parse_args(arguments)
    job = measured_job(given.task, BATCHES)
    result = {
        "command": shlex.join(["python", "benchmarks/scaling.py", *arguments]),
        "environment": environment(),
        "opening_s": job.opening_s,
        "batch_s": job.batch_s,
        "size": job.size,
        "variants": len(job.scores),
        "rows": rows_of(job, given.workers, given.images),
    }
    given.json.write_text(json.dumps(result, indent=1) + "\n")
    given.json.with_suffix(".md").write_text(markdown(result))


if __name__ == "__main__":
    main(sys.argv[1:])
