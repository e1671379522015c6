"""Several runs side by side: what each has found, as rows for a page, a terminal and CSV files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from sensitivity.records import Effect, Estimate, Plan, PlanMetric, Timing, Verdict, timing_of
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MetricFormat, count, listing, milliseconds, ratio
from sensitivity.reporting.number_formats import USUAL, in_format
from sensitivity.reporting.outcome import called
from sensitivity.reporting.tables import SEPARATOR
from sensitivity.reporting.verdict import Line, lines_of

NOTHING = "\N{EN DASH}"
"""Shown where a run has no such number."""

VARIANTS = {"float": "Float", "int8": "All INT8", "partial": "Plan"}


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison.

    name: unique among the runs compared. source: the toolkit whose quantizers it has; task: its
    reference; both "" where the folder does not tell. data: with `plan` equal to the next one.
    verdict: of the plan and its latencies.
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
        """How the values of its metric are written."""
        return MetricFormat(self.data.metric, self.data.full_scale)

    @property
    def lines(self) -> tuple[Line, ...]:
        """The three lines of its verdict, said of its own number format."""
        return tuple(
            Line(line.title, line.status, in_format(line.sentence, self.data.format), line.tone)
            for line in lines_of(self.verdict)
        )

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Those it was benched in, in order."""
        return tuple(dict.fromkeys(timing.runtime for timing in self.data.timings))

    def timing(self, variant: str, runtime: str) -> Timing | None:
        """Of one file in one runtime; None where it was not timed there."""
        return timing_of(variant, (one for one in self.data.timings if one.runtime == runtime))


@dataclass(frozen=True)
class Cell:
    """What one run has to say of one thing. detail: its interval, or names; "" where none."""

    text: str
    detail: str = ""


@dataclass(frozen=True)
class Fact:
    """One thing that runs are compared by, with a cell for each run, in the order of the runs."""

    title: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class LayerRow:
    """One layer in every run. effects: None in a run that has not measured it. left_out: whether
    each run's plan leaves it out of INT8."""

    unit: str
    effects: tuple[Effect | None, ...]
    left_out: tuple[bool, ...]


def facts(runs: Sequence[ComparedRun]) -> tuple[Fact, ...]:
    """What the runs are, their accuracy and their latencies; without the verdict and the layers."""
    made = [
        _fact(runs, "Model", lambda run: Cell(run.task or run.directory, run.source)),
        _fact(runs, "Metric", lambda run: Cell(run.data.metric)),
    ]
    notes = [other_metric(run, runs[0]) for run in runs]
    if any(notes):
        made.append(Fact("Same metric", tuple(Cell(note or "yes") for note in notes)))
    if any(run.data.format != USUAL for run in runs):
        made.append(_fact(runs, "What INT8 stands for", lambda run: Cell(run.data.format)))
    has_wide = any(run.plan.widened for run in runs)
    wide = [_fact(runs, "With activations of 16 bits", _widened)] if has_wide else []
    made += [
        _fact(runs, "Target", lambda run: Cell(run.metric.target(run.plan.target))),
        _fact(runs, "Left out of INT8", _left_out),
        *wide,
        _fact(runs, "Repaired to stay in INT8", _repaired),
    ]
    made += [_fact(runs, title, _level_of(read)) for title, read in LEVELS.items()]
    made += [
        _fact(runs, "Drop on holdout", lambda run: _change(run, run.plan.metric.holdout_drop)),
        _fact(runs, "True drop", lambda run: _change(run, run.plan.metric.true_drop)),
    ]
    return (*made, *_latencies(runs))


def verdict_facts(runs: Sequence[ComparedRun]) -> tuple[Fact, ...]:
    """Accuracy, speed and what to do, in a word or two, with the sentence as the detail."""
    lines = zip(*(run.lines for run in runs), strict=True)
    return tuple(
        Fact(of_all[0].title, tuple(Cell(line.status, line.sentence) for line in of_all))
        for of_all in lines
    )


def other_metric(run: ComparedRun, first: ComparedRun) -> str:
    """Why the accuracy of a run says nothing against that of the first; "" where it does."""
    if run.data.metric == first.data.metric:
        return ""
    return (
        f"This run is measured by {run.data.metric} and {first.name} by {first.data.metric}: "
        "their accuracies and effects cannot be compared."
    )


def layer_rows(runs: Sequence[ComparedRun]) -> tuple[LayerRow, ...]:
    """Every layer that any run ranks or leaves out, by the best rank that it has in any of them."""
    by_unit = [{effect.unit: effect for effect in run.data.effects} for run in runs]
    named = [
        name for run, known in zip(runs, by_unit, strict=True) for name in (*known, *run.plan.skip)
    ]
    rows = [
        LayerRow(
            name,
            tuple(known.get(name) for known in by_unit),
            tuple(name in run.plan.skip for run in runs),
        )
        for name in dict.fromkeys(named)
    ]
    return tuple(sorted(rows, key=_best_rank))


def runs_table(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """One row for each run, in full precision and the metric's own unit; times in milliseconds.

    What a run does not have is empty. left_out: exact names, joined with ";". Each runtime that any
    run was benched in has columns of its own, `speed` above 1 is faster than float.
    """
    runtimes = _all_runtimes(runs)
    return _whole(pd.DataFrame([_run_row(run, runs[0], runtimes) for run in runs]), "_n")


def layers_table(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """One row for each layer; for each run, named before the colon, its rank, effect, interval, and
    whether its plan leaves the layer out. The effect is in that run's own unit and mode."""
    rows = [_layer_row(runs, row) for row in layer_rows(runs)]
    return _whole(pd.DataFrame(rows), ": rank")


def _fact(runs: Sequence[ComparedRun], title: str, read: Callable[[ComparedRun], Cell]) -> Fact:
    return Fact(title, tuple(map(read, runs)))


LEVELS: dict[str, Callable[[PlanMetric], Estimate | None]] = {
    "Float, confirm": lambda found: found.float,
    "All INT8, confirm": lambda found: found.quantized,
    "Plan, confirm": lambda found: found.confirm,
    "Float, holdout": lambda found: found.holdout_float,
    "All INT8, holdout": lambda found: found.holdout_quantized,
    "Plan, holdout": lambda found: found.holdout,
}


def _level_of(read: Callable[[PlanMetric], Estimate | None]) -> Callable[[ComparedRun], Cell]:
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
    wide = [one.unit for one in run.plan.widened]
    return Cell(count(len(wide), "layer"), listing(tuple(wide)))


def _repaired(run: ComparedRun) -> Cell:
    return Cell(count(len(run.plan.recalibrated), "layer"))


def _all_runtimes(runs: Sequence[ComparedRun]) -> list[str]:
    return list(dict.fromkeys(runtime for run in runs for runtime in run.runtimes))


def _latencies(runs: Sequence[ComparedRun]) -> Iterator[Fact]:
    for runtime in _all_runtimes(runs):
        for variant, words in VARIANTS.items():
            timings = [run.timing(variant, runtime) for run in runs]
            yield Fact(f"{words} in {called(runtime)}", tuple(map(_latency, timings)))


def _latency(timing: Timing | None) -> Cell:
    if timing is None:
        return Cell("not timed")
    is_float = timing.variant == "float"
    speed = "" if is_float else f"{ratio(timing.ratio)} the speed of float"
    return Cell(milliseconds(timing.median_ms), speed)


def _best_rank(row: LayerRow) -> float:
    return min((effect.rank for effect in row.effects if effect), default=float("inf"))


def _run_row(run: ComparedRun, first: ComparedRun, runtimes: Sequence[str]) -> dict[str, object]:
    plan, found = run.plan, run.plan.metric
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
        "layers_in_16_bits": len(plan.widened),
        "layers_repaired": len(plan.recalibrated),
    }
    estimates = {title.lower().replace(", ", "_"): read(found) for title, read in LEVELS.items()}
    estimates |= {"holdout_drop": found.holdout_drop, "true_drop": found.true_drop}
    for name, estimate in estimates.items():
        row |= _columns(name.replace(" ", "_"), estimate)
    for line in run.lines:
        title = line.title.lower().replace(" ", "_")
        row |= {title: line.status, f"{title}_sentence": line.sentence}
    for runtime in runtimes:
        row |= _latency_columns(run, runtime)
    return row


def _whole(table: pd.DataFrame, ending: str) -> pd.DataFrame:
    # An empty cell would otherwise make floats of all whole numbers in its column.
    return table.astype({name: "Int64" for name in table.columns if name.endswith(ending)})


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
        name = f"{runtime}_{words.lower().replace(' ', '_')}"
        columns[f"{name}_ms"] = timing.median_ms if timing else None
        if variant != "float":
            speed = timing.ratio if timing else None
            columns |= _columns(f"{name}_speed", speed)
    return columns


def _layer_row(runs: Sequence[ComparedRun], row: LayerRow) -> dict[str, object]:
    columns: dict[str, object] = {"unit": row.unit}
    for run, effect, left_out in zip(runs, row.effects, row.left_out, strict=True):
        known = left_out or effect is not None
        own = {"rank": effect.rank if effect else None, **_effect_columns(effect)}
        own["left_out"] = left_out if known else None
        columns |= {f"{run.name}: {name}": value for name, value in own.items()}
    return columns


def _effect_columns(effect: Effect | None) -> dict[str, object]:
    """Empty where there is no effect, or where nobody knows it."""
    if effect is None or not effect.judged or effect.effect.n == 0:
        return {"effect": None, "low": None, "high": None}
    found = effect.effect
    return {"effect": found.value, "low": found.low, "high": found.high}
