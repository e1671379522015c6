"""Compares runs side by side: what each has found, as rows for a page, a terminal and CSV files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import pandas as pd

from sensitivity.records import Effect, Estimate, Plan, PlanMetric, Timing, Verdict, timing_of
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MetricFormat, count, listing, milliseconds, ratio
from sensitivity.reporting.number_formats import USUAL, in_format
from sensitivity.reporting.outcome import maker_name
from sensitivity.reporting.tables import SEPARATOR
from sensitivity.reporting.verdict import Line, lines_of

NOTHING = "\N{EN DASH}"
"""Shown if a run has no such number."""

VARIANTS = {"float": "Float", "int8": "All INT8", "partial": "Plan"}


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison.

    name: unique among the compared runs.
    source: the toolkit whose quantizers it has; "" if the folder does not say.
    task: its reference; "" if the folder does not say.
    data: data of the run, with the same `plan`.
    verdict: on the plan and its latencies.
    """

    name: str
    directory: str
    source: str
    task: str
    data: ReportData
    plan: Plan
    verdict: Verdict

    @property
    def metric(self) -> MetricFormat:
        """The format of the values of its metric."""
        return MetricFormat(self.data.metric, self.data.full_scale)

    @property
    def lines(self) -> tuple[Line, ...]:
        """The three lines of its verdict, in the words of its own number format."""
        return tuple(
            Line(line.title, line.status, in_format(line.sentence, self.data.format), line.tone)
            for line in lines_of(self.verdict)
        )

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The runtimes that it was benched in, in order."""
        return tuple(dict.fromkeys(timing.runtime for timing in self.data.timings))

    def timing(self, variant: str, runtime: str) -> Timing | None:
        """Return the timing of one file in one runtime; None if it was not timed there."""
        there = [timing for timing in self.data.timings if timing.runtime == runtime]
        return timing_of(variant, there)


@dataclass(frozen=True)
class Cell:
    """One fact about one run.

    detail: its interval, or names; "" if there are none.
    """

    text: str
    detail: str = ""


@dataclass(frozen=True)
class Fact:
    """One thing that runs are compared by, with a cell for each run, in the order of the runs."""

    title: str
    cells: tuple[Cell, ...]


Reader = Callable[[ComparedRun], Cell]
"""Reads one fact about a run."""


@dataclass(frozen=True)
class LayerRow:
    """One layer in every run.

    effects: None for a run that has not measured it.
    left_out: whether each run's plan leaves it out of INT8.
    """

    unit: str
    effects: tuple[Effect | None, ...]
    left_out: tuple[bool, ...]


def facts(runs: Sequence[ComparedRun]) -> tuple[Fact, ...]:
    """Return what the runs are, their accuracy and their latencies, without the verdict and the
    layers."""
    is_same = {"Same metric": partial(_same_metric, first=runs[0])}
    readers = IDENTITY | is_same | RESULTS
    every_fact = [Fact(title, tuple(map(read, runs))) for title, read in readers.items()]
    shown = [fact for fact in every_fact if set(fact.cells) != {USUAL_CELLS.get(fact.title)}]
    return (*shown, *_latencies(runs))


def verdict_facts(runs: Sequence[ComparedRun]) -> tuple[Fact, ...]:
    """Return accuracy, speed and what to do in a word or two, with the sentence as the detail."""
    rows = []
    for lines in zip(*map(attrgetter("lines"), runs), strict=True):
        cells = tuple(Cell(line.status, line.sentence) for line in lines)
        rows.append(Fact(lines[0].title, cells))
    return tuple(rows)


def _same_metric(run: ComparedRun, first: ComparedRun) -> Cell:
    return Cell(other_metric(run, first) or "yes")


def other_metric(run: ComparedRun, first: ComparedRun) -> str:
    """Return why the accuracy of a run cannot be compared with that of the first; "" if it can."""
    if run.data.metric == first.data.metric:
        return ""
    return (
        f"This run is measured by {run.data.metric} and {first.name} by {first.data.metric}: "
        "their accuracies and effects cannot be compared."
    )


def layer_rows(runs: Sequence[ComparedRun]) -> tuple[LayerRow, ...]:
    """Return every layer that any run ranks or leaves out, ordered by its best rank in any of
    them."""
    by_unit = [{effect.unit: effect for effect in run.data.effects} for run in runs]
    named = dict[str, None]()
    for run, known in zip(runs, by_unit, strict=True):
        named |= dict.fromkeys((*known, *run.plan.skip))
    rows = []
    for name in named:
        effects = tuple(known.get(name) for known in by_unit)
        left_out = tuple(name in run.plan.skip for run in runs)
        rows.append(LayerRow(name, effects, left_out))
    return tuple(sorted(rows, key=_best_rank))


def runs_table(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """Return one row for each run, in full precision and the metric's own unit; times in
    milliseconds.

    Missing values are empty. `left_out` holds exact names, joined with ";". Each runtime that any
    run was benched in has its own columns; a `speed` above 1 is faster than float.
    """
    runtimes = _all_runtimes(runs)
    return _whole(pd.DataFrame([_run_row(run, runs[0], runtimes) for run in runs]), "_n")


def layers_table(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """Return one row for each layer.

    For each run, named before the colon, it holds the layer's rank, effect and interval, and
    whether the plan leaves it out. The effect is in that run's own unit and mode.
    """
    rows = [_layer_row(runs, row) for row in layer_rows(runs)]
    return _whole(pd.DataFrame(rows), ": rank")


def _level_of(read: Callable[[PlanMetric], Estimate | None]) -> Reader:
    def cell(run: ComparedRun) -> Cell:
        estimate = read(run.plan.metric)
        if estimate is None:
            return Cell(NOTHING)
        return Cell(run.metric.level(estimate.value), _rests_on(run, estimate))

    return cell


def _change(run: ComparedRun, estimate: Estimate | None) -> Cell:
    if estimate is None:
        return Cell(NOTHING)
    return Cell(run.metric.change(estimate.value, sign=False), _rests_on(run, estimate))


def _rests_on(run: ComparedRun, estimate: Estimate) -> str:
    return f"{run.metric.interval(estimate)} n = {estimate.n:,}"


def _left_out(run: ComparedRun) -> Cell:
    layers = max(run.data.layers, len(run.plan.skip))
    return Cell(f"{len(run.plan.skip)} of {count(layers, 'layer')}", listing(run.plan.skip))


def _widened(run: ComparedRun) -> Cell:
    return Cell(count(len(run.plan.wide), "layer"), listing(run.plan.wide))


def _in_fp8(run: ComparedRun) -> Cell:
    return Cell(count(len(run.plan.fp8), "layer"), listing(run.plan.fp8))


LEVELS: dict[str, Callable[[PlanMetric], Estimate | None]] = {
    "Float, confirm": lambda found: found.float,
    "All INT8, confirm": lambda found: found.quantized,
    "Plan, confirm": lambda found: found.confirm,
    "Float, holdout": lambda found: found.holdout_float,
    "All INT8, holdout": lambda found: found.holdout_quantized,
    "Plan, holdout": lambda found: found.holdout,
}


IDENTITY: dict[str, Reader] = {
    "Model": lambda run: Cell(run.task or run.directory, run.source),
    "Metric": lambda run: Cell(run.data.metric),
}


RESULTS: dict[str, Reader] = {
    "What INT8 stands for": lambda run: Cell(run.data.format),
    "Target": lambda run: Cell(run.metric.target(run.plan.target)),
    "Left out of INT8": _left_out,
    "With activations of 16 bits": _widened,
    "In FP8": _in_fp8,
    "Repaired to stay in INT8": lambda run: Cell(count(len(run.plan.recalibrated), "layer")),
    **{title: _level_of(read) for title, read in LEVELS.items()},
    "Drop on holdout": lambda run: _change(run, run.plan.metric.holdout_drop),
    "True drop": lambda run: _change(run, run.plan.metric.true_drop),
}


USUAL_CELLS = {
    "Same metric": Cell("yes"),
    "What INT8 stands for": Cell(USUAL),
    "With activations of 16 bits": Cell("0 layers"),
    "In FP8": Cell("0 layers"),
}
"""Cells that most runs have. A fact is left out if every run has the usual cell."""


def _all_runtimes(runs: Sequence[ComparedRun]) -> list[str]:
    runtimes = dict[str, None]()
    for run in runs:
        runtimes |= dict.fromkeys(run.runtimes)
    return list(runtimes)


def _latencies(runs: Sequence[ComparedRun]) -> Iterator[Fact]:
    for runtime in _all_runtimes(runs):
        for variant, words in VARIANTS.items():
            timings = [run.timing(variant, runtime) for run in runs]
            yield Fact(f"{words} in {maker_name(runtime)}", tuple(map(_latency, timings)))


def _latency(timing: Timing | None) -> Cell:
    if timing is None:
        return Cell("not timed")
    is_float = timing.variant == "float"
    speed = "" if is_float else f"{ratio(timing.ratio)} the speed of float"
    return Cell(milliseconds(timing.median_ms), speed)


def _best_rank(row: LayerRow) -> float:
    effects = filter(None, row.effects)
    return min(map(attrgetter("rank"), effects), default=float("inf"))


def _run_row(run: ComparedRun, first: ComparedRun, runtimes: Sequence[str]) -> dict[str, object]:
    plan, measured = run.plan, run.plan.metric
    row: dict[str, object] = {
        "run": run.name,
        "directory": run.directory,
        "task": run.task or None,
        "source": run.source or None,
        "metric": run.data.metric,
        "same_metric": other_metric(run, first) or "yes",
        "target": run.metric.target(plan.target),
        "layers": max(run.data.layers, len(plan.skip)),
        "layers_left_out": len(plan.skip),
        "left_out": SEPARATOR.join(plan.skip),
        "layers_in_16_bits": len(plan.wide),
        "layers_in_fp8": len(plan.fp8),
        "layers_repaired": len(plan.recalibrated),
    }
    estimates = {title.lower().replace(", ", "_"): read(measured) for title, read in LEVELS.items()}
    estimates |= {"holdout_drop": measured.holdout_drop, "true_drop": measured.true_drop}
    for name, estimate in estimates.items():
        row |= _columns(name.replace(" ", "_"), estimate)
    for line in run.lines:
        title = line.title.lower().replace(" ", "_")
        row |= {title: line.status, f"{title}_sentence": line.sentence}
    for runtime in runtimes:
        row |= _latency_columns(run, runtime)
    return row


def _whole(table: pd.DataFrame, ending: str) -> pd.DataFrame:
    # An empty cell would otherwise turn all integers in its column into floats.
    whole = table.filter(regex=f"{ending}$").columns
    return table.astype(dict.fromkeys(whole, "Int64"))


def _columns(name: str, estimate: Estimate | None) -> dict[str, object]:
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None, f"{name}_n": None}
    return {
        name: estimate.value,
        f"{name}_low": estimate.low,
        f"{name}_high": estimate.high,
        f"{name}_n": estimate.n,
    }


def _latency_columns(run: ComparedRun, runtime: str) -> dict[str, object]:
    columns: dict[str, object] = {}
    for variant, words in VARIANTS.items():
        timing = run.timing(variant, runtime)
        median_ms, speed = (timing.median_ms, timing.ratio) if timing else (None, None)
        name = f"{runtime}_{words.lower().replace(' ', '_')}"
        columns[f"{name}_ms"] = median_ms
        if variant != "float":
            columns |= _columns(f"{name}_speed", speed)
    return columns


def _layer_row(runs: Sequence[ComparedRun], row: LayerRow) -> dict[str, object]:
    columns: dict[str, object] = {"unit": row.unit}
    for run, effect, left_out in zip(runs, row.effects, row.left_out, strict=True):
        is_known = left_out or effect is not None
        own = _effect_columns(effect)
        own["left_out"] = left_out if is_known else None
        columns |= {f"{run.name}: {name}": value for name, value in own.items()}
    return columns


def _effect_columns(effect: Effect | None) -> dict[str, object]:
    """Return the columns of an effect; empty if there is none or it was not measured."""
    columns: dict[str, object] = {"rank": None, "effect": None, "low": None, "high": None}
    if effect is None:
        return columns
    columns["rank"] = effect.rank
    if effect.is_measured:
        estimate = effect.effect
        columns |= {"effect": estimate.value, "low": estimate.low, "high": estimate.high}
    return columns
