"""What becomes of a run that is killed, or whose disk, memory, clock or directory fails, and
whether `--resume` ends with the numbers of an undisturbed run.

    python benchmarks/faults.py kill --number 100   # SIGKILL at random moments
    python benchmarks/faults.py                     # every fault, a few times each

The job is `run` of an ONNX file of two layers. Its journal has a line for each batch, and its files
are written like those of any model. Each command runs in a forked process. After the fault the run
is resumed. It must end with the same journal lines, scan.csv and plan as a run that nothing
disturbed: nothing is lost, and nothing is counted twice. "disk" and "read-only" mount a tmpfs,
which needs the rights to do so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from damage import PAIRS, Ended, begun, forked, waited, warm, write

RNG_SEED = 0
KILLS = 10
"""Kills in a row of one run."""
DISK_MIB = 64
MEMORY_MIB = 8
"""The most MiB of address space that the run may take beyond that of the process it is forked
from."""
WORKING_S = 4.0
"""The seconds within which a worker is killed: it takes two or three to begin."""
AS_IT_SHOULD = ("a result", "one sentence", "killed", "cut")
OF_TIMINGS = ("measured_ms", "advice", "verdict", "checksum")
"""Keys of a plan that depend on latency, which differs between runs."""


Result = tuple[list[bytes], bytes, str]


@dataclass(frozen=True)
class Job:
    """The run that is disturbed.

    seconds: the time that it takes undisturbed.
    right: the result of an undisturbed run; None before there is one.
    used: bytes of its directory.
    """

    folder: Path
    seconds: float = 0.0
    right: Result | None = None
    used: int = 0

    @property
    def undisturbed(self) -> Path:
        return self.folder / "undisturbed"

    def command(self, out: Path) -> list[str]:
        model, data = self.folder / "model.onnx", self.folder / "data.npz"
        options = ["--force", "--target", "0.3", "--rounds", "2", "--threads", "1", "--resume"]
        return ["run", str(model), "--data", str(data), *options, "--out", str(out)]

    def log(self, name: str = "log") -> Path:
        return self.folder / name

    def ended(self, out: Path, prepare: Callable[[], object]) -> Ended:
        """Run the command after `prepare`, which is called in its process."""
        return waited(begun(self.command(out), self.log(), prepare=prepare), self.log())

    def killed(self, out: Path, rng: random.Random) -> Ended:
        """Run the command and kill it at a random moment."""
        child = begun(self.command(out), self.log())
        time.sleep(rng.uniform(0, self.seconds))
        os.kill(child, signal.SIGKILL)
        return waited(child, self.log())


@dataclass(frozen=True)
class Outcome:
    """The outcome of one fault.

    fault: how the disturbed command ended.
    after: how the resumed run ended; "equal" if its result is that of an undisturbed run.
    said: the output to look into.
    times: how many times the fault occurred before the run was resumed.
    """

    fault: str
    after: str
    said: str = ""
    times: int = 1


def result_of(out: Path) -> Result:
    """What a run measured and chose: the lines of its journal in any order, its ranking and its
    plan."""
    plan = json.loads((out / "plan.json").read_bytes())
    chosen = {key: value for key, value in plan.items() if key not in OF_TIMINGS}
    lines = sorted((out / "journal.jsonl").read_bytes().splitlines())
    return lines, (out / "scan.csv").read_bytes(), json.dumps(chosen, sort_keys=True)


def is_right(job: Job, out: Path) -> bool:
    """Whether the ranking and the plan are those of the undisturbed run, and the journal holds its
    lines and no line twice.

    The journal may lack lines: if recalibration.json exists already, the ranges that were tried for
    it are not tried again.
    """
    lines, *found = result_of(out)
    assert job.right is not None
    right_lines, *right = job.right
    return found == right and len(set(lines)) == len(lines) and set(lines) <= set(right_lines)


def prepared(folder: Path) -> Job:
    """The job, with the result of an undisturbed run."""
    write(PAIRS, folder / "model.onnx")
    x = np.random.default_rng(2).normal(size=(200, 4)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=np.arange(200) % 3)
    job = Job(folder)
    out = job.undisturbed
    warm(job.command(out), job.log())
    shutil.rmtree(out)
    start = time.monotonic()
    ended = forked(job.command(out), job.log())
    seconds = time.monotonic() - start
    assert ended.verdict == "a result", ended.said
    used = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return Job(folder, seconds, result_of(out), used)


def how(ended: Ended) -> str:
    """The verdict on a command. A process that a C library ended is named as such: that happens
    without memory, when nothing in the process can print a sentence."""
    by_library = ended.code not in (None, 0, 1, 2) and "Traceback (most recent" not in ended.said
    return f"ended by a C library, code {ended.code}" if by_library else ended.verdict


def after(job: Job, out: Path, ended: Ended, fault: str | None = None) -> Outcome:
    """How the disturbed command ended, and what the resumed run gives."""
    fault = fault or how(ended)
    said = "" if fault.startswith(AS_IT_SHOULD) else ended.said
    again = forked(job.command(out), job.log())
    if again.verdict != "a result":
        return Outcome(fault, again.verdict.upper(), said + again.said)
    return Outcome(fault, "equal" if is_right(job, out) else "ANOTHER RESULT", said)


def killed(job: Job, out: Path, rng: random.Random) -> Outcome:
    """SIGKILL at random moments, of the run and of each resumed run."""
    codes = [job.killed(out, rng).code for _ in range(KILLS)]
    found = after(job, out, Ended(0, ""), "killed")
    return replace(found, times=codes.count(-signal.SIGKILL))


def worker_killed(job: Job, out: Path, rng: random.Random) -> Outcome:
    """SIGKILL of one of two workers at a random moment after they have begun."""
    child = begun([*job.command(out), "--workers", "2"], job.log())
    while not children(child) and is_running(child):
        time.sleep(0.01)
    time.sleep(rng.uniform(0, WORKING_S))
    alive = children(child)
    if alive:
        os.kill(rng.choice(alive), signal.SIGKILL)
    ended = waited(child, job.log())
    was_hit = alive and ended.verdict == "a result"
    return after(job, out, ended, "a result, a worker killed" if was_hit else None)


def children(process: int) -> list[int]:
    """The processes that this one has started and that are alive; none if it has ended."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def is_running(process: int) -> bool:
    """Whether this child of ours has not ended."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def disk_full(job: Job, out: Path, rng: random.Random) -> Outcome:
    """A disk with room for a random part of what the run writes; the resumed run has enough
    room."""
    with tmpfs(job.folder / "disk") as disk:
        room = rng.randrange(int(1.5 * job.used))
        (disk / "ballast").write_bytes(bytes(DISK_MIB * 2**20 - room))

        def prepare() -> None:
            tempfile.tempdir = str(disk)

        ended = job.ended(disk / "run", prepare)
        (disk / "ballast").unlink()
        return after(job, disk / "run", ended)


def small_files(job: Job, out: Path, rng: random.Random) -> Outcome:
    """No file may be longer than a random number of bytes."""
    most = rng.randrange(30_000)

    def prepare() -> None:
        # What the command says goes to a pipe: its own log must not be what is too long.
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return after(job, out, job.ended(out, prepare))


def out_of_memory(job: Job, out: Path, rng: random.Random) -> Outcome:
    """A limit of address space that the run reaches at some moment."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + rng.randrange(MEMORY_MIB * 2**20)

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    return after(job, out, job.ended(out, prepare))


def clock_jumps(job: Job, out: Path, rng: random.Random) -> Outcome:
    """A clock that gives another time of day on each call, years ahead or back."""
    real_time, real_form = time.time, time.strftime

    def jumping() -> float:
        return real_time() + rng.uniform(-1e8, 1e8)

    def prepare() -> None:
        time.time = jumping
        time.strftime = lambda form, *_: real_form(form, time.gmtime(jumping()))

    return after(job, out, job.ended(out, prepare))


def two_at_once(job: Job, out: Path, rng: random.Random) -> Outcome:
    """Two commands in one directory, the second while the first is at work.

    One is refused and is told about the other, which ends as if it were alone.
    """
    first = begun(job.command(out), job.log())
    time.sleep(rng.uniform(0, 0.9 * job.seconds))
    second = begun(job.command(out), job.log("second"))
    pids = {first, second}
    both = [waited(second, job.log("second")), waited(first, job.log())]
    refused = [ended for ended in both if ended.verdict == "one sentence"]
    told = any(f"while process {pid} on host" in ended.said for ended in refused for pid in pids)
    fault = "one refused, told who" if len(refused) == 1 and told else "ODD"
    if not refused:
        fault = "one after the other"
    return Outcome(
        fault, "equal" if is_right(job, out) else "ANOTHER RESULT", "".join(e.said for e in both)
    )


def read_only(job: Job, out: Path, rng: random.Random) -> Outcome:
    """A directory that cannot be written, either empty or with a part of a run in it."""
    with tmpfs(job.folder / "disk") as disk:
        if rng.random() < 0.7:
            job.killed(disk / "run", rng)
        mount("-o", "remount,ro", str(disk))
        ended = forked(job.command(disk / "run"), job.log())
        mount("-o", "remount,rw", str(disk))
        return after(job, disk / "run", ended)


def power_cut(job: Job, out: Path, rng: random.Random) -> Outcome:
    """What a power cut may leave: the journal up to any byte, and each of the other files either
    whole or missing."""
    shutil.copytree(job.undisturbed, out)
    journal = out / "journal.jsonl"
    os.truncate(journal, rng.randrange(journal.stat().st_size + 1))
    for file in sorted(out.iterdir()):
        if file != journal and file.is_file() and rng.random() < 0.5:
            file.unlink()
    return after(job, out, Ended(0, ""), "cut")


FAULTS: dict[str, Callable[[Job, Path, random.Random], Outcome]] = {
    "kill": killed,
    "worker": worker_killed,
    "disk": disk_full,
    "file-size": small_files,
    "memory": out_of_memory,
    "clock": clock_jumps,
    "two": two_at_once,
    "read-only": read_only,
    "power": power_cut,
}


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)  # noqa: S603, S607


@contextmanager
def tmpfs(folder: Path) -> Iterator[Path]:
    """An empty file system of `DISK_MIB`."""
    folder.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607


def outcomes(job: Job, fault: str, numbers: list[int]) -> Iterator[tuple[int, Outcome]]:
    for number in numbers:
        rng = random.Random(f"{RNG_SEED} {fault} {number}")  # noqa: S311
        out = job.folder / "run"
        shutil.rmtree(out, ignore_errors=True)
        yield number, FAULTS[fault](job, out, rng)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fault", nargs="?", choices=FAULTS, help="one alone; all without")
    parser.add_argument("--number", type=int, default=5, help="of times")
    parser.add_argument("--only", type=int, help="this one again, with what it said")
    options = parser.parse_args()
    numbers = [options.only] if options.only is not None else list(range(options.number))
    counts: Counter[tuple[str, str, str]] = Counter()
    with tempfile.TemporaryDirectory() as name:
        job = prepared(Path(name))
        print(f"undisturbed: {job.seconds:.1f} s, {job.used} bytes", flush=True)
        for fault in [options.fault] if options.fault else FAULTS:
            for number, outcome in outcomes(job, fault, numbers):
                counts[fault, outcome.fault, outcome.after] += outcome.times
                as_it_should = outcome.after == "equal" and outcome.fault[0].islower()
                if not as_it_should or options.only is not None:
                    print(f"{fault} {number}: {outcome.fault}, {outcome.after}")
                    print(outcome.said[-4000:], flush=True)
    print("| fault | the command | going on | number |\n|---|---|---|---|")
    for (fault, ended, found), count in sorted(counts.items()):
        print(f"| {fault} | {ended} | {found} | {count} |")
    return 0 if all(found == "equal" for _, _, found in counts) else 1


if __name__ == "__main__":
    sys.exit(main())
