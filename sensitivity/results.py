"""Results of the functions of `sensitivity`: records of a run directory, as read when the function
returned.

Each can be shown in a notebook and converted to a pandas DataFrame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sensitivity.errors import NamesError
from sensitivity.exporters.verification import Verification
from sensitivity.measure.scan import Scan
from sensitivity.records import BenchResult, Finding, Plan, PlanMetric, Verdict
from sensitivity.reporting.compare import ComparedRun, layers_table, runs_table
from sensitivity.reporting.tables import (
    bench_table,
    detection_table,
    frontier_table,
    scan_table,
)
from sensitivity.reporting.verdict import lines_of
from sensitivity.run_dir import RunDir, RunInfo
from sensitivity.steps import lazy
from sensitivity.steps.plan_files import read_frontier
from sensitivity.tasks.base import EvaluateTask, Task
from sensitivity.tasks.detection_detail import DetectionDetail

if TYPE_CHECKING:
    from sensitivity.tasks.load import TaskLike

SHOWN_ROWS = 20
"""Rows of a table shown in a notebook; `to_frame()` has all of them."""


@dataclass(frozen=True, eq=False)
class Result:
    """Base class of the results that come from a run directory.

    directory: the run directory.
    task: the task that was given, which later functions reuse; None if the run's task is in a file.
    info: the head of the run, as in run.json.
    name: name of the plan that later functions continue with; None for the one in plan.json.
    """

    directory: Path
    task: TaskLike | None = field(repr=False)
    info: RunInfo = field(repr=False)
    name: str | None = field(default=None, kw_only=True)

    @property
    def _run_dir(self) -> RunDir:
        return RunDir(self.directory, self.name)

    def to_frame(self) -> pd.DataFrame:
        """Return this result as a table in full precision."""
        raise NotImplementedError

    def _sentences(self) -> Sequence[tuple[str, str]]:
        """Return (title, sentence) for each line above the table in a notebook."""
        return ()

    def _repr_html_(self) -> str:
        return html(self._sentences(), self.to_frame())


@dataclass(frozen=True, eq=False)
class Scanned(Result):
    """Result of `scan`: the effect of each unit.

    record: effects, baselines and mode, see `sensitivity.measure.scan.Scan`.
    """

    record: Scan = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per unit, the most sensitive first, as in scan.csv.

        Columns: rank, unit, effect, low, high, n, tie, metric, quantizers, kind, judged. Effects
            are in the metric's own unit.
        """
        return scan_table(self.record.effects, self.info.units)

    def _sentences(self) -> Sequence[tuple[str, str]]:
        levels = ", ".join(
            f"{name} {level.value:.4g}" for name, level in self.record.baselines.items()
        )
        return ((f"{self.info.metric} on rank", levels),)


@dataclass(frozen=True, eq=False)
class Planned(Result):
    """Result of `plan`: the layers to leave out.

    record: the plan with its evidence, see `sensitivity.records.Plan`.
    scan: the scan that the plan is based on.
    """

    record: Plan = field(repr=False)
    scan: Scanned = field(repr=False)

    @property
    def skip(self) -> tuple[str, ...]:
        """Exact names of the units left out, the most sensitive first."""
        return self.record.skip

    @property
    def quantizers(self) -> tuple[str, ...]:
        """Exact names of all quantizers that the plan disables."""
        return self.record.quantizers

    @property
    def met(self) -> bool:
        """Whether the target is met on `confirm`; `verdict` says how certain that is."""
        return self.record.met

    @property
    def metric(self) -> PlanMetric:
        """Accuracy of the plan on `confirm` and `holdout`, with intervals."""
        return self.record.metric

    @property
    def verdict(self) -> Verdict:
        """Accuracy, speed and what to do, each with a status and a sentence."""
        assert self.record.verdict is not None, "every plan that is written has one"
        return self.record.verdict

    def to_frame(self) -> pd.DataFrame:
        """Return one row per unit: the columns of the scan, and `left_out`."""
        table = self.scan.to_frame()
        table.insert(2, "left_out", table["unit"].isin(self.skip))
        return table

    def frontier(self) -> pd.DataFrame:
        """Return one row per skip-set measured so far for plans of this directory, the cheapest
        first, as in frontier.csv."""
        found, best = read_frontier(self._run_dir)
        names = {point.names for point in best}
        return frontier_table(found.points, self.record, found.cost, names)

    def detection(self) -> pd.DataFrame:
        """Return the metrics of a detector and its AP by size of the objects, as in detection.csv.

        Each has a row for float, INT8 and the plan, on `holdout`. The table is empty for a model
        that is not a detector.
        """
        detail = self._run_dir.read_if_there("detection.json", DetectionDetail)
        return detection_table(detail or DetectionDetail(0, (), {}, (), ()))

    def apply(self, model: Any) -> AbstractContextManager[Any]:
        """Put the model into the state that the plan was judged in, for the length of a `with`
        block.

        Units of the plan are left out and its ranges are in force. The model is restored
        afterwards, also after an exception.

        model: the model that was scanned, or another one with the same quantizers.
        """
        return lazy.apply.applied(model, self.record, self.info)

    def apply_permanently(self, model: Any) -> None:
        """Put the model into the state in which the plan was judged, permanently.

        Raises ModelError for models other than those of ModelOpt and pytorch-quantization.
        """
        lazy.apply.apply_for_good(model, self.record, self.info)

    def _sentences(self) -> Sequence[tuple[str, str]]:
        return [(f"{line.title}: {line.status}", line.sentence) for line in lines_of(self.verdict)]


@dataclass(frozen=True, eq=False)
class Exported(Result):
    """Result of `export`: the exported and verified files.

    record: what was verified, see `sensitivity.exporters.verification.Verification`.
    """

    record: Verification = field(repr=False)

    @property
    def files(self) -> dict[str, Path]:
        """Variant ("float", "int8", "partial") -> its file, and name of each lowered file -> that
        file."""
        located: dict[str, Path] = {}
        located.update(self._run_dir.canonical().items())
        located.update((name, self._run_dir.folder / name) for name in self.record.lowered)
        return located

    def to_frame(self) -> pd.DataFrame:
        """Return one row per canonical file.

        Columns: variant, file, quantizers, and rms, the distance of its outputs from those of the
            simulated model relative to the outputs of the float model, with quantization_rms, the
            distance that quantization itself causes.
        """
        rows = [
            {
                "variant": check.variant,
                "file": str(self.files[check.variant]),
                "quantizers": check.quantizers,
                "rms": check.rms,
                "quantization_rms": check.quantization_rms,
            }
            for check in self.record.files
        ]
        return pd.DataFrame(
            rows, columns=["variant", "file", "quantizers", "rms", "quantization_rms"]
        )


@dataclass(frozen=True, eq=False)
class Benched(Result):
    """Result of `bench`: latencies of the exported files.

    record: see `sensitivity.records.BenchResult`.
    """

    record: BenchResult = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per distinct file, as in bench.csv. Times are in milliseconds."""
        return bench_table(self.record.timings)

    def _sentences(self) -> Sequence[tuple[str, str]]:
        return [("", sentence) for sentence in self.record.sentences]


@dataclass(frozen=True, eq=False)
class Run(Planned):
    """Result of `run`: a plan with the steps before and after it.

    export, bench: None if the model cannot be exported.
    report: path of report.html.
    """

    export: Exported | None = field(repr=False)
    bench: Benched | None = field(repr=False)
    report: Path = field(repr=False)

    @property
    def files(self) -> dict[str, Path]:
        """The exported files, see `Exported.files`; empty if there are none."""
        return self.export.files if self.export else {}


@dataclass(frozen=True)
class Checked:
    """Result of `check`: the findings, errors first. See `sensitivity.records.Finding`."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per finding: code, severity, where, message, fix."""
        return pd.DataFrame(
            [asdict(one) for one in self.findings], columns=list(Finding.__dataclass_fields__)
        )

    def _repr_html_(self) -> str:
        return html([("", "Nothing to report.")] if not self.findings else [], self.to_frame())


@dataclass(frozen=True)
class Compared:
    """Result of `compare`: runs or plans side by side.

    runs: see `sensitivity.reporting.compare.ComparedRun`.
    """

    runs: tuple[ComparedRun, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per run or plan, as in compare.csv: accuracies, drops, names left out,
        verdict and latencies."""
        return runs_table(self.runs)

    def layers(self) -> pd.DataFrame:
        """Return one row per layer, as in compare_layers.csv: its rank and effect in each run."""
        return layers_table(self.runs)

    def _repr_html_(self) -> str:
        cells = {
            run.name: [f"{line.title}: {line.status}" for line in run.lines] for run in self.runs
        }
        return html([(name, ", ".join(lines)) for name, lines in cells.items()], self.to_frame())


def scanned(directory: Path, task: TaskLike | None) -> Scanned:
    """Read the result of `scan` from its run directory.

    task: the task given in Python; None for one in a file.
    """
    run_dir = RunDir(directory)
    return Scanned(directory, task, run_dir.info(), run_dir.read("scan.json", Scan))


def planned(directory: Path, task: TaskLike | None, name: str | None = None) -> Planned:
    """Read the result of `plan` from its run directory.

    task: the task given in Python; None for one in a file.
    name: name of the plan; None for the one in plan.json.
    Raises RunDirError if there is no plan.
    """
    run_dir = RunDir(directory, name)
    scan = scanned(directory, task)
    return Planned(directory, task, run_dir.info(), run_dir.plan(), scan, name=name)


def exported(directory: Path, task: TaskLike | None, name: str | None = None) -> Exported:
    """Read the result of `export` from its run directory.

    task, name: as for `planned`.
    Raises RunDirError if nothing was exported.
    """
    run_dir = RunDir(directory, name)
    record = run_dir.read("export.json", Verification)
    return Exported(directory, task, run_dir.info(), record, name=name)


def benched(directory: Path, task: TaskLike | None, name: str | None = None) -> Benched:
    """Read the result of `bench` from its run directory.

    task, name: as for `planned`.
    Raises RunDirError if nothing was timed.
    """
    run_dir = RunDir(directory, name)
    return Benched(directory, task, run_dir.info(), run_dir.bench(), name=name)


def whole_run(directory: Path, task: TaskLike | None) -> Run:
    """Read the results of all steps done in the run directory."""
    plan, folder = planned(directory, task), directory
    has = {name: (folder / name).exists() for name in ("export.json", "bench.json")}
    export = exported(folder, task) if has["export.json"] else None
    bench = benched(folder, task) if has["bench.json"] else None
    return Run(
        folder, task, plan.info, plan.record, plan.scan, export, bench, folder / "report.html"
    )


def html(sentences: Iterable[tuple[str, str]], table: pd.DataFrame) -> str:
    """Return sentences and the first rows of a table as HTML, with every name and sentence
    escaped."""
    parts = []
    for title, sentence in sentences:
        head = f"<b>{escape(title)}</b>. " if title else ""
        parts.append(f"<p>{head}{escape(sentence)}</p>")
    if len(table):
        parts.append(table.head(SHOWN_ROWS).to_html(index=False, border=0, escape=True))
    if len(table) > SHOWN_ROWS:
        parts.append(f"<p>{len(table) - SHOWN_ROWS} more rows in to_frame().</p>")
    return "\n".join(parts)


def place_of(run: Any, task: Any) -> tuple[Path, Any]:
    """Return the run directory and the task to continue with.

    run: a path, or an earlier result, whose task is used if `task` is None.
    Raises NamesError for anything else.
    """
    if isinstance(run, Result):
        return run.directory, task if task is not None else run.task
    if isinstance(run, (str, Path)):
        return Path(run), task
    kind = type(run).__name__
    fix = "scan or run it first" if isinstance(run, (Task, EvaluateTask)) else "give one of them"
    raise NamesError(
        f"Expected a run directory, or the result of an earlier step, got a {kind}; {fix}."
    )
