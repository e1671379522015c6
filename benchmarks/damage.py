"""Damage files at random, and see what the commands make of them: the same result, another result,
or one sentence.

    python benchmarks/damage.py onnx --number 1000     # small valid ONNX files: lint, check and run
    python benchmarks/damage.py journal --number 1000  # a finished run's journal: plan --search

Each command runs in a separate process, which is forked so that nothing is imported again. A crash,
a hang and a traceback are told apart. An outcome that is neither a result nor one sentence is
printed with its number, and `--only` repeats that one alone.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime  # noqa: F401 - before the fork
from onnx import numpy_helper

from sensitivity.cli.main import main as command_line

LIMIT_S = 120
FINDING = re.compile(r"^error \S+\n  (.+)$", re.MULTILINE)
"""How `check` prints an error."""
RNG_SEED = 0
KINDS = ("bit", "byte", "bytes", "cut", "zeros")
TARGETS = ("tensorrt-10", "tensorrt-11", "openvino", "onnxruntime")

PAIRS = """
<ir_version: 8, opset_import: ["" : 17]>
plain (float[batch, 4] x) => (float[batch, 3] y)
{
    xq = QuantizeLinear (x, sx, z)
    xd = DequantizeLinear (xq, sx, z)
    wd = DequantizeLinear <axis = 0> (w, sw, zw)
    h = MatMul (xd, wd)
    r = Relu (h)
    hq = QuantizeLinear (r, sh, z)
    hd = DequantizeLinear (hq, sh, z)
    vd = DequantizeLinear (v, sv, z)
    y = MatMul (hd, vd)
}
"""
BRANCH = """
<ir_version: 8, opset_import: ["" : 17]>
branch (float[batch, 4] x) => (float[batch, 3] y)
{
    xq = QuantizeLinear (x, sx, z)
    xd = DequantizeLinear (xq, sx, z)
    wd = DequantizeLinear <axis = 0> (w, sw, zw)
    h = MatMul (xd, wd)
    total = ReduceSum <keepdims = 0> (h)
    low = Less (total, limit)
    r = If (low) <
        then_branch = small () => (float[batch, 6] a) { a = Relu (h) },
        else_branch = large () => (float[batch, 6] b) {
            kq = QuantizeLinear (h, sh, z)
            kd = DequantizeLinear (kq, sh, z)
            b = Sigmoid (kd)
        }
    >
    vd = DequantizeLinear (v, sv, z)
    y = MatMul (r, vd)
}
"""
FUNCTION = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
calls (float[batch, 4] x) => (float[batch, 3] y)
{
    h = local.layer (x, w, sx, sw)
    r = Relu (h)
    hq = QuantizeLinear (r, sh, z)
    hd = DequantizeLinear (hq, sh, z)
    vd = DequantizeLinear (v, sv, z)
    y = MatMul (hd, vd)
}
<opset_import: ["" : 17], domain: "local">
layer (x, w, sx, sw) => (h)
{
    z = Constant <value = int8 {0}> ()
    zw = Constant <value = int8[4] {0, 0, 0, 0}> ()
    xq = QuantizeLinear (x, sx, z)
    xd = DequantizeLinear (xq, sx, z)
    wd = DequantizeLinear <axis = 0> (w, sw, zw)
    h = MatMul (xd, wd)
}
"""


def constants(hidden: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "w": rng.integers(-127, 127, (4, hidden)).astype(np.int8),
        "v": rng.integers(-127, 127, (hidden, 3)).astype(np.int8),
        "sw": np.full(4, 0.01, np.float32),
        "zw": np.zeros(4, np.int8),
        "z": np.array(0, np.int8),
        "limit": np.array(0, np.float32),
        **{
            name: np.array(value, np.float32)
            for name, value in (("sx", 0.03), ("sh", 0.05), ("sv", 0.01))
        },
    }


def write(text: str, path: Path, *, hidden: int = 6, external: bool = False) -> Path:
    """A valid Q/DQ file, written in ONNX's text form."""
    model = onnx.parser.parse_model(text)
    main_graph = text.partition('<opset_import: ["" : 17], domain')[0]
    used = set(re.findall(r"\w+", main_graph))
    values = {name: value for name, value in constants(hidden).items() if name in used}
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in values.items()
    )
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = (
        {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
        if external
        else {}
    )
    onnx.save(model, path, **data)
    return path


def subjects(folder: Path) -> dict[str, Path]:
    """Small valid files: Q/DQ pairs, a sub-graph, a local function, external data, and weights that
    take most of the bytes."""
    return {
        "pairs": write(PAIRS, folder / "pairs/model.onnx"),
        "sub-graph": write(BRANCH, folder / "branch/model.onnx"),
        "function": write(FUNCTION, folder / "function/model.onnx"),
        "external data": write(PAIRS, folder / "external/model.onnx", external=True),
        "large weights": write(PAIRS, folder / "large/model.onnx", hidden=5000),
    }


def damaged(content: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """The content with one bit flipped, with one or several bytes replaced, with a run of zeros, or
    cut short."""
    at = int(rng.integers(len(content)))
    if kind == "cut":
        return content[:at]
    found = bytearray(content)
    if kind == "bit":
        found[at] ^= 1 << int(rng.integers(8))
    elif kind == "zeros":
        found[at : at + 16] = bytes(len(found[at : at + 16]))
    else:
        for place in rng.integers(len(content), size=1 if kind == "byte" else 8):
            found[place] = int(rng.integers(256))
    return bytes(found)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    code: its exit code; None for a hang, negative for a signal.
    said: its stderr.
    printed: its stdout.
    """

    code: int | None
    said: str
    printed: str = ""

    @property
    def verdict(self) -> str:
        if self.code is None:
            return "HANG"
        if self.code < 0:
            return f"CRASH by {signal.Signals(-self.code).name}"
        errors = [line for line in self.said.splitlines() if line.startswith("Error: ")]
        errors += FINDING.findall(self.printed) if not errors and self.code == 1 else []
        if "Traceback (most recent call last)" in self.said or self.code not in (0, 1, 2):
            return "TRACEBACK"
        if errors:
            return "one sentence" if self.code == 1 else "ODD"
        return "a result"


def forked(arguments: list[str], log: Path, modules: Path | None = None) -> Ended:
    """Run the command line in a forked process.

    modules: the file that lists the modules which it has imported.
    """
    return waited(begun(arguments, log, modules), log)


def begun(
    arguments: list[str],
    log: Path,
    modules: Path | None = None,
    prepare: Callable[[], object] | None = None,
) -> int:
    """Start the command line in a forked process and return the process id. `prepare` is called in
    that process first."""
    child = os.fork()
    if child == 0:
        if prepare:
            prepare()
        _in_child(arguments, log, modules)
    return child


def waited(child: int, log: Path) -> Ended:
    """How the process ended. It is killed if it takes too long."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code, printed = (
                os.waitstatus_to_exitcode(status),
                log.with_suffix(".out").read_text(errors="replace"),
            )
            return Ended(code, log.read_text(errors="replace"), printed)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return Ended(None, log.read_text(errors="replace"))


def warm(arguments: list[str], log: Path) -> None:
    """Import here what the command imports, so that forked processes need not."""
    listed = log.with_name("modules")
    ended = forked(arguments, log, listed)
    assert ended.verdict == "a result", ended.said
    for name in listed.read_text().split():
        with suppress(Exception):
            importlib.import_module(name)


def _in_child(arguments: list[str], log: Path, modules: Path | None) -> None:
    code = 70
    with log.open("w") as file, log.with_suffix(".out").open("w") as out:
        os.dup2(file.fileno(), 2)
        with redirect_stdout(out), redirect_stderr(file):
            try:
                command_line(arguments)
            except SystemExit as stop:
                code = int(stop.code or 0)
            except BaseException:  # noqa: BLE001 - this is what is looked for
                import traceback

                traceback.print_exc(file=file)
    if modules:
        modules.write_text("\n".join(sys.modules))
    os._exit(code)


def onnx_commands(file: Path, data: Path, number: int) -> Iterator[list[str]]:
    yield ["lint", str(file), "--for", TARGETS[number % len(TARGETS)]]
    yield ["check", str(file), "--data", str(data)]
    out = file.parent / "run"
    yield [
        "run",
        str(file),
        "--data",
        str(data),
        *["--no-recalibrate", "--rounds", "2", "--threads", "1", "--force", "--out"],
        str(out),
    ]


def of_onnx(folder: Path, numbers: list[int]) -> Iterator[tuple[int, str, Ended]]:
    """Damage ONNX files, and the data beside one of them."""
    files = subjects(folder / "valid")
    x = np.random.default_rng(2).normal(size=(24, 4)).astype(np.float32)
    data = folder / "data.npz"
    np.savez(data, x=x, y=np.arange(24) % 3)
    for arguments in onnx_commands(files["pairs"], data, 0):
        warm(arguments, folder / "log")
    shutil.rmtree(files["pairs"].parent / "run")
    for number in numbers:
        rng = np.random.default_rng([RNG_SEED, number])
        name, kind = list(files)[number % len(files)], KINDS[number // len(files) % len(KINDS)]
        place = folder / "damaged"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(files[name].parent, place)
        subject = place / (
            "weights.bin" if name == "external data" and rng.random() < 0.3 else "model.onnx"
        )
        subject.write_bytes(damaged(subject.read_bytes(), kind, rng))
        for arguments in onnx_commands(place / "model.onnx", data, number):
            yield number, f"{arguments[0]} of {name}, {kind}", forked(arguments, folder / "log")


def of_journal(folder: Path, numbers: list[int]) -> Iterator[tuple[int, str, Ended]]:
    """Flip one bit in the journal of a finished run, and plan from it. A result must be the same
    plan."""
    file = write(PAIRS, folder / "model.onnx")
    x = np.random.default_rng(2).normal(size=(200, 4)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=np.arange(200) % 3)
    valid, run = folder / "valid", folder / "run"
    options = ["--data", str(folder / "data.npz"), "--no-recalibrate", "--force", "--target", "0.3"]
    warm(["run", str(file), *options, "--rounds", "2", "--out", str(valid)], folder / "log")
    content = (valid / "journal.jsonl").read_bytes()
    command = ["plan", str(run), "--search", "--no-recalibrate", "--target", "0.3"]
    right = None
    for number in [-1, *numbers]:
        rng = np.random.default_rng([RNG_SEED, number + 1])
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(valid, run)
        (run / "journal.jsonl").write_bytes(content if number < 0 else damaged(content, "bit", rng))
        ended = forked(command, folder / "log")
        plan = (run / "plan.json").read_bytes()
        right = right or plan
        if ended.verdict == "a result" and plan != right:
            ended = Ended(99, "another plan")
        if number >= 0:
            yield number, "plan of a journal, bit", ended


SUITES: dict[str, Callable[[Path, list[int]], Iterator[tuple[int, str, Ended]]]] = {
    "onnx": of_onnx,
    "journal": of_journal,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument(
        "--seconds",
        type=float,
        default=float("inf"),
        help="stop after this time, with what there is",
    )
    options = parser.parse_args()
    numbers = (
        [options.only]
        if options.only is not None
        else list(range(options.first, options.first + options.number))
    )
    counts: Counter[tuple[str, str]] = Counter()
    done: set[int] = set()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        for number, what, ended in SUITES[options.suite](Path(name), numbers):
            counts[what.partition(" ")[0], ended.verdict] += 1
            done.add(number)
            if ended.verdict not in ("one sentence", "a result") or options.only is not None:
                print(f"{number}: {what}: {ended.verdict}\n{ended.said[-6000:]}", flush=True)
            if time.monotonic() - start > options.seconds:
                break
    print(f"{len(done)} damaged files, {time.monotonic() - start:.0f} s")
    print("| command | how it ended | number |\n|---|---|---|")
    for (verb, verdict), count in sorted(counts.items()):
        print(f"| {verb} | {verdict} | {count} |")
    return 1 if any(verdict not in ("one sentence", "a result") for _, verdict in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
