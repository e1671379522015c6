"""The verdict as Markdown, for the summary of a CI job or a comment on a change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sensitivity.records import Estimate, Plan
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.detection import DetectionSection, detection_section
from sensitivity.reporting.formats import MINUS, MetricFormat, count, milliseconds, ratio
from sensitivity.reporting.next_step import next_step
from sensitivity.reporting.number_formats import in_format
from sensitivity.reporting.summaries.checks import Outcome, checks
from sensitivity.reporting.verdict import words_of

MARKS: dict[Outcome, str] = {"pass": "\u2705", "open": "\u26a0\ufe0f", "fail": "\u274c"}
TITLES = {"accuracy": "Accuracy", "speed": "Speed", "action": "What to do"}
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#])")
BACKTICKS = re.compile(r"`+")


def render(data: ReportData) -> str:
    """Return the summary.

    It holds the three lines of the verdict, tables of accuracy and latency, the AP of a detector by
    size, the layers left out, and the next command. Names and sentences are escaped.
    """
    metric, plan = MetricFormat(data.metric, data.full_scale), data.plan
    blocks = [f"## {escaped(data.title)}", *_lines(data)]
    if plan is not None:
        blocks.append(_table(_accuracy_rows(plan, metric)))
    section = detection_section(data)
    if section is not None and section.sizes:
        blocks.append(_table(_size_rows(section)))
    if data.timings:
        blocks.append(_table(_latency_rows(data)))
    if plan is not None:
        blocks += _units("Left out of INT8, the most sensitive first", plan.skip)
        blocks += _units("With activations of 16 bits", plan.wide)
        blocks += _units("In FP8, weights and activations", plan.fp8)
    blocks += _resume_hint(data)
    return in_format("\n\n".join(blocks) + "\n", data.format)


def _units(title: str, names: Sequence[str]) -> Iterator[str]:
    """Yield a list of units with its title; nothing if there are none."""
    if names:
        lines = "\n".join(f"- {code(name)}" for name in names)
        yield f"{title}:\n\n{lines}"


def _lines(data: ReportData) -> Iterator[str]:
    if data.plan is not None:
        yield "\n".join(
            f"- {MARKS[check.outcome]} **{TITLES[check.name]}: {escaped(check.status)}.** "
            f"{escaped(check.sentence)}"
            for check in checks(data)
        )
    yield escaped(words_of(data).headline)


def _accuracy_rows(plan: Plan, metric: MetricFormat) -> Iterator[Sequence[str]]:
    results = plan.metric
    yield (metric.name, "on confirm", "on holdout")
    levels: dict[str, tuple[Estimate, Estimate | None]] = {
        "float": (results.float, results.holdout_float),
        "INT8 as calibrated": (results.quantized, results.holdout_quantized),
        "the plan": (results.confirm, results.holdout),
    }
    for words, (on_confirm, on_holdout) in levels.items():
        yield (words, _level(on_confirm, metric), _level(on_holdout, metric))


def _level(estimate: Estimate | None, metric: MetricFormat) -> str:
    if estimate is None:
        return ""
    return f"{metric.level(estimate.value)} {metric.interval(estimate)}, n = {estimate.n:,}"


def _size_rows(section: DetectionSection) -> Iterator[Sequence[str]]:
    differences = (f"INT8 {MINUS} float", f"Partial {MINUS} float")
    yield ("AP by size", *(f"{name}, %" for name in section.columns), *differences)
    for row in section.sizes:
        if not row.objects:
            yield (f"{row.name}, no objects", *[""] * 5)
            continue
        changes = [f"{text} {interval}".rstrip() for text, interval in row.drops]
        yield (f"{row.name}, {count(row.objects, 'object')}", *row.values, *changes)


def _latency_rows(data: ReportData) -> Iterator[Sequence[str]]:
    yield ("file", "runtime", "median", "speed against float")
    for timing in data.timings:
        files = " = ".join(timing.variants)
        yield (files, timing.runtime, milliseconds(timing.median_ms), ratio(timing.ratio))


def _table(rows: Iterator[Sequence[str]]) -> str:
    head, *body = ([escaped(cell) for cell in row] for row in rows)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _resume_hint(data: ReportData) -> Iterator[str]:
    step = next_step(data)
    if not step.commands:
        yield escaped(step.sentence)
        return
    commands = "\n".join(step.commands)
    fence = "`" * max(3, 1 + _longest_run(commands))
    yield f"{escaped(step.sentence)}\n\n{fence}bash\n{commands}\n{fence}"


def escaped(text: str) -> str:
    r"""Return a text that Markdown shows as it is, in one line.

    >>> escaped("a|b *c*")
    'a\\|b \\*c\\*'
    """
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def code(name: str) -> str:
    """Return a name as code, whatever backticks it holds.

    >>> code("conv1"), code("a`b")
    ('`conv1`', '`` a`b ``')
    """
    marks = "`" * (1 + _longest_run(name))
    space = " " if "`" in name else ""
    return f"{marks}{space}{' '.join(name.split())}{space}{marks}"


def _longest_run(text: str) -> int:
    return max(map(len, BACKTICKS.findall(text)), default=0)
