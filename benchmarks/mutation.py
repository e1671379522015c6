"""Change the code in one small place at a time, and see whether a test fails.

    make mutation                                             # the whole sample
    python benchmarks/mutation.py --folder stats --number 20  # the first 20 changes of one folder
    python benchmarks/mutation.py --again                     # try what survived once more

mutmut makes the changes. A random sample of each folder is tried, in an order that a seed fixes, so
that a larger sample contains a smaller one. Each change runs in a forked process that reads the
changed text in place of the file. It runs only the tests that execute the changed line, the
quickest first, for at most `BUDGET_S` seconds, so a change that only a slower test would notice
counts as survived. Only `build/mutation` is written, where the verdicts are kept; a run that is cut
short continues where it stopped.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import hashlib
import importlib.util
import json
import math
import os
import random
import signal
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "mutation"
TABLE = ROOT / "benchmarks" / "results" / "mutation.md"
EQUIVALENTS = ROOT / "benchmarks" / "mutation_equivalents.toml"
SEED = 0
NUMBER = 40
BUDGET_S = 10.0
"""Seconds of tests for one change, by the times that the tests take without it."""
LIMIT_S = 90
"""A change that makes its tests run longer than this many seconds is noticed."""

USAGE, NOTHING_RUN, NOT_LOADED = 4, 5, 70
"""Exit codes that say nothing about a change: two of pytest, and one of this script."""

TESTS = {
    "planners": (
        "test_cost_planner",
        "test_culprits",
        "test_formats_planner",
        "test_greedy",
        "test_guests",
        "test_raced",
        "test_rule_planner",
        "test_selection",
    ),
    "stats": (
        "test_engine_cost",
        "test_paired",
        "test_proof",
        "test_racing_prefix",
        "test_racing_stats",
        "test_selection",
        "test_sequential",
        "test_soft_drop",
        "test_soft_judge",
    ),
    "units": ("test_export_placement", "test_groups", "test_onnx_groups", "test_residuals"),
    "onnx_graph/passes": (
        "test_clip_passes",
        "test_equalization",
        "test_export",
        "test_export_lowering",
        "test_export_passes",
        "test_for_onnxruntime",
        "test_fused_layers",
        "test_lower_onnxruntime",
        "test_lower_passes",
        "test_onnx_fake_quant",
        "test_onnx_float_model",
        "test_onnx_graph",
        "test_onnx_ranges",
        "test_onnx_reading",
        "test_onnx_source",
        "test_residuals",
        "test_scalar_scales",
        "test_skip_uses",
        "test_yolo_end2end",
    ),
}
"""The test files of each folder of `sensitivity/`."""


@dataclass(frozen=True)
class Mutant:
    """One changed place: the path of the file from the root, its changed text, and the
    difference."""

    path: str
    line: int
    before: str
    after: str
    text: str

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").replace("/", ".")

    @property
    def key(self) -> str:
        """A digest of the mutant; another text of the file is another mutant."""
        return hashlib.sha256(f"{self.path}\n{self.text}".encode()).hexdigest()[:16]


def source_files(folder: str) -> list[Path]:
    return sorted((ROOT / "sensitivity" / folder).glob("*.py"))


def sample(folder: str, number: int) -> list[Mutant]:
    """The first `number` of the folder's mutants in random order."""
    places = [(path, place) for path in source_files(folder) for place in mutated_places(path)]
    random.Random(SEED).shuffle(places)  # noqa: S311 - not for secrets
    return [mutant_at(path, place) for path, place in places[:number]]


def mutated_places(path: Path) -> list[tuple[Any, Any, Any]]:
    """Module, node and changed node of each change, in functions and in constants of the module.

    The texts of errors, and the fields and decorators of classes, are left out.
    """
    from mutmut.mutation.file_mutation import create_mutations

    module, mutations, _, _ = create_mutations(str(path), path.read_text())
    words = {
        id(node) for raised in nodes(module, "Raise") for node in nodes(raised, "SimpleString")
    }
    constants = {id(node) for line in module_constants(module) for node in nodes(line)}
    return [
        (module, one.original_node, one.mutated_node)
        for one in mutations
        if id(one.original_node) not in words
        and (one.contained_by_top_level_function or id(one.original_node) in constants)
    ]


def nodes(node: Any, kind: str | None = None) -> Iterator[Any]:
    """The node and all nodes below it; only those of one kind, if a kind is given."""
    if kind is None or type(node).__name__ == kind:
        yield node
    for child in node.children:
        yield from nodes(child, kind)


def module_constants(module: Any) -> Iterator[Any]:
    """Assignments to names in capitals, outside functions and classes."""
    for line in module.body:
        for statement in line.body if type(line).__name__ == "SimpleStatementLine" else ():
            targets = [target.target for target in getattr(statement, "targets", ())]
            targets += [statement.target] if type(statement).__name__ == "AnnAssign" else []
            if any(getattr(target, "value", "").isupper() for target in targets):
                yield statement


def mutant_at(path: Path, place: tuple[Any, Any, Any]) -> Mutant:
    module, original, changed = place
    text = module.deep_replace(original, changed).code
    old, new = path.read_text().splitlines(), text.splitlines()
    differences = difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes()
    _, start, end, new_start, new_end = next(one for one in differences if one[0] != "equal")
    before, after = old[start:end], new[new_start:new_end]
    name = str(path.relative_to(ROOT))
    return Mutant(
        name, start + 1, " ".join(map(str.strip, before)), " ".join(map(str.strip, after)), text
    )


class Changed(SourceFileLoader):
    """A pytest plugin and a finder that loads one module from a text in place of its file."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(mutant.module, str(ROOT / mutant.path))
        self.text = mutant.text
        self.is_loaded = False

    def pytest_sessionstart(self) -> None:
        # Before the finder of pytest, which takes every file on its command line for a test.
        sys.meta_path.insert(0, self)

    def get_code(self, fullname: str) -> CodeType:
        self.is_loaded = True
        return compile(self.text, self.path, "exec")

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)


class Chosen:
    """A pytest plugin that runs the named tests in their order, and no others."""

    def __init__(self, names: Sequence[str]) -> None:
        self.order = {name: place for place, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if item.nodeid in self.order]
        items.sort(key=lambda item: self.order[item.nodeid])


class Covering:
    """A pytest plugin that records which lines each passing test executes, and how long it takes.

    Lines that a fixture executes count for all tests of its file, since a later test may use it
    too.
    """

    def __init__(self) -> None:
        import coverage

        include = [f"{ROOT}/sensitivity/{folder}/*" for folder in TESTS]
        self.coverage = coverage.Coverage(data_file=None, include=include, config_file=False)
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: set[str] = set()

    def pytest_runtest_setup(self, item: Any) -> None:
        self.coverage.switch_context("")

    def pytest_runtest_call(self, item: Any) -> None:
        self.coverage.switch_context(item.nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
        if not report.passed:
            self.failed.add(report.nodeid)

    def facts(self) -> dict[str, Any]:
        """The seconds of each test, and the tests that execute each line of each file."""
        data = self.coverage.get_data()
        passing = {name: took for name, took in self.seconds.items() if name not in self.failed}
        lines = {
            str(Path(file).relative_to(ROOT)): data.contexts_by_lineno(file)
            for file in data.measured_files()
        }
        return {"seconds": passing, "lines": lines}


def run_pytest(files: Iterable[str], *plugins: object) -> int:
    """Run pytest in this process, without plugins that would write files, spread over processes or
    shrink examples."""
    import hypothesis
    import pytest

    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutation", database=None, derandomize=True, phases=phases)
    hypothesis.settings.load_profile("mutation")
    off = ("cacheprovider", "xdist", "timeout")
    options = ["-x", "-q", *(word for name in off for word in ("-p", f"no:{name}"))]
    return int(pytest.main([*options, "-o", "addopts=--doctest-modules", *files], plugins=plugins))


def in_fork(work: Callable[[], int], limit_s: int) -> int | None:
    """The exit code of `work` in a forked process that prints nothing; None if it was killed.

    The process collects no garbage of this one: an ONNX Runtime session waits for its threads,
    which a fork does not have.
    """
    gc.collect()
    gc.freeze()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout's would not end the process
        signal.alarm(limit_s)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    gc.unfreeze()
    status = os.waitpid(child, 0)[1]
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else None


def covered(test_file: str) -> dict[str, Any]:
    """The findings of `Covering` for one test file, kept until the file or the code changes."""
    texts = [ROOT / test_file, *(path for folder in TESTS for path in source_files(folder))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in texts)).hexdigest()[:16]
    kept = KEPT / f"{Path(test_file).stem}_{digest}.json"

    def measure() -> int:
        plugin = Covering()
        plugin.coverage.start()
        code = run_pytest([test_file], plugin)
        plugin.coverage.stop()
        kept.write_text(json.dumps(plugin.facts()))
        return code

    if not kept.exists():
        print(f"{test_file}: which lines its tests execute", flush=True)
        in_fork(measure, 1800)
    return json.loads(kept.read_text())


class Judge:
    """Finds the tests that execute the changed line of a mutant, and whether one of them fails."""

    def __init__(self, folder: str) -> None:
        doctests = [path for path in source_files(folder) if ">>>" in path.read_text()]
        files = [f"tests/{name}.py" for name in TESTS[folder]]
        files += [str(path.relative_to(ROOT)) for path in doctests]
        self.facts = {file: covered(file) for file in files}
        self.sound: set[str] = set()

    def tests_of(self, mutant: Mutant) -> list[str]:
        """The names of the tests, the quickest first, as many as fit the budget."""
        seconds: dict[str, float] = {}
        for facts in self.facts.values():
            lines = facts["lines"].get(mutant.path, {})
            names = lines.get(str(mutant.line), [""] if lines else [])
            for name in facts["seconds"] if "" in names else names:
                seconds[name] = facts["seconds"].get(name, math.inf)
        left_s = BUDGET_S
        chosen = []
        for name in sorted(seconds, key=lambda name: seconds[name]):
            left_s -= seconds[name]
            if left_s < 0:
                break
            chosen.append(name)
        return chosen

    def survives(self, mutant: Mutant) -> bool:
        names = self.tests_of(mutant)
        survived = not names or self._passes(mutant, names)
        if not survived and mutant.path not in self.sound:
            unchanged = replace(mutant, text=(ROOT / mutant.path).read_text())
            if not self._passes(unchanged, names):
                sys.exit(f"Expected {names} to pass without a change, one failed.")
            self.sound.add(mutant.path)
        return survived

    def _passes(self, mutant: Mutant, names: Sequence[str]) -> bool:
        files = dict.fromkeys(name.split("::")[0] for name in names)

        def work() -> int:
            changed = Changed(mutant)
            code = run_pytest(files, Chosen(names), changed)
            return code if changed.is_loaded else NOT_LOADED

        code = in_fork(work, LIMIT_S)
        if code in (NOT_LOADED, USAGE, NOTHING_RUN):
            sys.exit(f"Expected {mutant.path} to be read and {names} to run, got exit code {code}.")
        return code == 0


class Verdicts:
    """The verdicts, as lines of a file: one for each mutant that was tried."""

    def __init__(self) -> None:
        KEPT.mkdir(parents=True, exist_ok=True)
        self.path = KEPT / "verdicts.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.survived: dict[str, bool] = dict(json.loads(line) for line in lines)

    def add(self, mutant: Mutant, survived: bool) -> None:
        self.survived[mutant.key] = survived
        with self.path.open("a") as file:
            file.write(json.dumps([mutant.key, survived]) + "\n")


def try_all(mutants: Sequence[Mutant], judge: Judge, verdicts: Verdicts, *, again: bool) -> None:
    for place, mutant in enumerate(mutants):
        known = verdicts.survived.get(mutant.key)
        if known is False or (known and not again):
            continue
        start = time.monotonic()
        survived = judge.survives(mutant)
        verdicts.add(mutant, survived)
        word = "SURVIVED" if survived else "noticed"
        print(f"{place + 1}/{len(mutants)} {word} {mutant.path}:{mutant.line}", end="")
        print(f" {time.monotonic() - start:.1f} s {mutant.before} -> {mutant.after}", flush=True)


def reasons() -> dict[tuple[str, str, str], str]:
    """The reason why no test can notice a change, by file, text before and text after."""
    entries = tomllib.loads(EQUIVALENTS.read_text())["equivalent"] if EQUIVALENTS.exists() else []
    return {(one["path"], one["before"], one["after"]): one["why"] for one in entries}


def table(mutants: dict[str, list[Mutant]], verdicts: Verdicts) -> str:
    """The score of each folder, and all survivors, as Markdown."""
    # Not before the last fork, which loads a changed module itself.
    from sensitivity.stats.paired import mean_estimate

    why = reasons()
    tried = {
        folder: [one for one in group if one.key in verdicts.survived]
        for folder, group in mutants.items()
    }
    rows, survivors = [], []
    whole = [mutant for group in tried.values() for mutant in group]
    for folder, group in [*tried.items(), ("all", whole)]:
        alive = [one for one in group if verdicts.survived[one.key]]
        same = [one for one in alive if (one.path, one.before, one.after) in why]
        if not group:
            continue
        killed, number = len(group) - len(alive), len(group)
        share = mean_estimate([not verdicts.survived[one.key] for one in group])
        score = f"{share.value:.1%} | {share.low:.1%} to {share.high:.1%}"
        rows.append(f"| {folder} | {number} | {killed} | {len(same)} | {score} |")
        survivors += alive if folder != "all" else []
    return (
        "\n".join(
            [
                HEAD.format(
                    machine=machine(),
                    number=max(map(len, mutants.values())),
                    seed=SEED,
                    budget=BUDGET_S,
                ),
                *rows,
                SURVIVORS,
            ]
            + [row_of(one, why) for one in survivors]
        )
        + "\n"
    )


def row_of(mutant: Mutant, why: dict[tuple[str, str, str], str]) -> str:
    reason = why.get((mutant.path, mutant.before, mutant.after), "")
    before, after = (
        f"`` {text.replace('|', chr(92) + '|')} ``" for text in (mutant.before, mutant.after)
    )
    return f"| {mutant.path}:{mutant.line} | {before} | {after} | {reason} |"


def machine() -> str:
    from sensitivity.timing.environment import environment, usable_cores

    return f"{usable_cores()} cores, {environment()['cpu']}"


HEAD = """# Do the tests notice a changed line?

`python benchmarks/mutation.py --number {number}` on {machine}

The first {number} of mutmut's changes to each folder, drawn with seed {seed}, or as many of them as
were tried; up to {budget:.0f} s of tests for each. The words of raised errors are not changed. The
score is the share of changes that a test notices, with its 95 % interval; equivalent changes, which
no test can notice, count as not noticed. How to read and to repeat it:
[README](../README.md#mutationpy).

| folder of `sensitivity/` | changes | noticed | equivalent | score | interval |
|---|---|---|---|---|---|"""
SURVIVORS = """
## What no test noticed

| place | before | after | why no test can notice it |
|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", choices=TESTS, action="append", help="Only this folder.")
    parser.add_argument("--number", type=int, default=NUMBER, help="Changes in each folder.")
    parser.add_argument("--again", action="store_true", help="Try what survived once more.")
    parser.add_argument("--table", action="store_true", help="Write the table and try nothing.")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    verdicts = Verdicts()
    mutants = {folder: sample(folder, options.number) for folder in TESTS}
    if not options.table:
        preload()
        for folder in options.folder or TESTS:
            try_all(mutants[folder], Judge(folder), verdicts, again=options.again)
    TABLE.write_text(table(mutants, verdicts))
    print(TABLE.relative_to(ROOT))


def preload() -> None:
    """Import other packages that the tests need once, before the first fork."""
    for name in PRELOADED:
        importlib.import_module(name)


PRELOADED = (
    "hypothesis",
    "matplotlib.pyplot",
    "msgspec",
    "onnx_ir",
    "onnxruntime",
    "pandas",
    "pytest",
    "scipy.stats",
    "torch",
)

if __name__ == "__main__":
    main()
