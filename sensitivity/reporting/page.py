"""The report as one self-contained HTML file: style, script and charts are inside it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

import sensitivity
from sensitivity.records import Estimate, Plan
from sensitivity.reporting import formats
from sensitivity.reporting.axes import spread
from sensitivity.reporting.charts import (
    RowChart,
    baseline_chart,
    effect_charts,
    latency_chart,
    parts_of,
)
from sensitivity.reporting.choices import choice_chart
from sensitivity.reporting.data import BASELINES, ReportData
from sensitivity.reporting.detection import LEAST_HEIGHT, detection_section, label_of, pixels
from sensitivity.reporting.formats import MetricFormat, count
from sensitivity.reporting.graph.layout import middle, path
from sensitivity.reporting.graph.picture import facts_for_script, picture_of
from sensitivity.reporting.histograms import histograms_by_unit
from sensitivity.reporting.kinds import layer_words, range_words, weights_alone
from sensitivity.reporting.next_step import next_step
from sensitivity.reporting.outcome import evidence_of
from sensitivity.reporting.path import PathChart, changes, path_chart
from sensitivity.reporting.scan_sentences import scan_sentences
from sensitivity.reporting.verdict import words_of
from sensitivity.reporting.why import reasons

SPLIT_WORDS = {
    "rank": "the samples that rank the layers",
    "confirm": "other samples, on which the plan was chosen",
    "holdout": "samples that no choice used",
}
"""The parts of the data, for a reader who does not know them."""

TEMPLATES = Path(__file__).parent / "templates"


def render(data: ReportData) -> str:
    """Return the whole page.

    Every text in `data` is escaped, and the page may run only its own script.
    """
    choices = choice_chart(data, whole=False)
    rows = row_charts(data)
    graph = picture_of(data)
    histograms = {
        unit: list(map(asdict, drawn)) for unit, drawn in histograms_by_unit(data).items()
    }
    options = list(map(asdict, choices.options)) if choices else []
    by_rank = sorted(data.effects, key=attrgetter("rank"))
    judged = [effect for effect in by_rank if effect.judged]
    return page(
        "report.html.j2",
        data=data,
        metric=MetricFormat(data.metric, data.full_scale),
        verdict=words_of(data),
        scan_sentences=scan_sentences(data),
        levels=level_table(data),
        rows=rows,
        picture=choice_chart(data),
        choices=choices,
        option_data=json.dumps(options) if choices else "",
        next_step=next_step(data),
        splits=split_words(data),
        layer_words=layer_words(data.units, data.quantizers, data.layers),
        weights_alone=weights_alone(data.units, data.quantizers),
        changes=changes(data.plan) if data.plan else (),
        as_calibrated=_as_calibrated(data),
        effects=by_rank,
        effect_charts={name: rows[name] for name in rows if name.startswith("effects")},
        unmeasured=[effect.unit for effect in judged if not effect.is_measured],
        unjudged=[effect.unit for effect in by_rank if not effect.judged],
        range_words=range_words,
        reasons=reasons(data),
        quantizers={unit.name: unit.quantizers for unit in data.units},
        parts=parts_of(data),
        detection=detection_section(data),
        graph=graph,
        histograms=json.dumps(histograms),
        layer_facts=json.dumps(facts_for_script(graph)),
        least_height=LEAST_HEIGHT,
        left_out=frozenset(data.skip),
        spread=spread,
    )


def page(template: str, **values: object) -> str:
    """Return a page from its template and values, with the style and the script of all pages.

    Every text in `values` is escaped. The page's security policy allows its only script by the
    hash.
    """
    script = (TEMPLATES / "report.js").read_text()
    return (
        _templates()
        .get_template(template)
        .render(
            style=Markup((TEMPLATES / "report.css").read_text()),  # noqa: S704 our own file
            script=Markup(script),  # noqa: S704 our own file
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            version=sensitivity.__version__,
            **values,
        )
    )


@cache
def _templates() -> jinja2.Environment:
    """Return the environment of all pages, which keeps the compiled templates."""
    # Jinja2's usual rule, escaping by file name, would leave out a template whose name ends in
    # ".j2".
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": breakable,
        "count": formats.count,
        "ms": formats.milliseconds,
        "ratio": formats.ratio,
        "tight": tight,
        "pixels": pixels,
        "path": path,
        "middle": middle,
        "label_of": label_of,
        "place_in": lambda name, names: names.index(name),
        "place_on": lambda value, axis: axis.at(value),
        "percent": "{:.4g}%".format,
        "samples": formats.samples,
        "silent": formats.includes_zero,
        "capability": lambda sm: f"{sm // 10}.{sm % 10}",
        "memory": formats.memory,
        "format_words": formats.format_words,
        "value": lambda value: f"{value:.4g}" if isinstance(value, float) else value,
    }
    return environment


def _as_calibrated(data: ReportData) -> int:
    """Return the number of layers that a plan leaves as calibrated."""
    plan = data.plan
    if plan is None:
        return 0
    repaired = [unit.unit for unit in plan.recalibrated]
    changed = {*plan.outside, *repaired}
    return data.layers - len(changed)


def row_charts(data: ReportData) -> dict[str, RowChart]:
    """Return name -> chart of rows, for the charts that `data` has values for."""
    charts: dict[str, RowChart] = {}
    for number, chart in enumerate(effect_charts(data), 1):
        charts["effects" if number == 1 else f"effects_{number}"] = chart
    if data.baselines:
        charts["baselines"] = baseline_chart(data)
    if data.timings:
        charts["latency"] = latency_chart(data.timings)
    return charts


def plan_chart(data: ReportData) -> PathChart | None:
    """Return accuracy against the number of layers left out; None if there is no plan."""
    return path_chart(data.plan, data.full_scale) if data.plan else None


def split_words(data: ReportData) -> tuple[tuple[str, str, str], ...]:
    """Return the parts of the data in words: name, size and purpose; the size is "" if it is
    unknown."""
    sizes = {}
    if data.baselines:
        sizes["rank"] = next(iter(data.baselines.values())).n
    if data.plan:
        sizes |= {"confirm": data.plan.metric.confirm.n, "holdout": data.plan.metric.holdout.n}
    return tuple(
        (name, formats.count(sizes[name], "sample") if sizes.get(name, 0) > 1 else "", meaning)
        for name, meaning in SPLIT_WORDS.items()
        if name in sizes
    )


@dataclass(frozen=True)
class LevelTable:
    """The metric of float, of INT8 as calibrated and of the plan.

    heads: one for each part of the data, and one for the verdict's combination of them.
    rows: name, and for each head a value and its interval; "" if it is unknown.
    caption: "" without a plan.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    caption: str = ""


SOFT = (
    "The other columns count right answers. The verdict also weighs how sure float is of each "
    "answer: one that it was unsure of costs less if it changes. This varies less by chance, and "
    "it is the drop to quote."
)
COUNTED = "The verdict combines both parts: its drop is the one to quote."
LUCK = (
    " The plan was chosen because it did well on confirm, in part by luck: the corrected drop "
    "removes this."
)


def level_table(data: ReportData) -> LevelTable:
    """Return what the answer is based on, part by part."""
    metric = MetricFormat(data.metric, data.full_scale)
    if data.plan is None:
        known = [
            (BASELINES[key], (_level(estimate, metric),))
            for key, estimate in data.baselines.items()
        ]
        return LevelTable(_heads(data, "rank"), tuple(known))
    results = data.plan.metric
    shown = evidence_of(data.plan, data.judged).shown
    is_level = data.plan.target.metric is not None
    rows = [
        ("Float", _level(results.float, metric), _level(results.holdout_float, metric), NONE),
        (
            BASELINES["quantized"],
            _level(results.quantized, metric),
            _level(results.holdout_quantized, metric),
            NONE,
        ),
        (
            "The plan",
            _level(results.confirm, metric),
            _level(results.holdout, metric),
            _level(shown, metric) if is_level else NONE,
        ),
        (
            "Drop of the plan",
            _change(_plain_drop(data, data.plan), metric),
            _change(results.holdout_drop, metric),
            NONE if is_level else _change(shown, metric),
        ),
    ]
    luck = ""
    if results.chosen_by_count and results.confirm_drop is not None and len(data.plan.path) > 1:
        corrected = _change(results.confirm_drop, metric)
        rows.append(("Drop, corrected for luck", corrected, NONE, NONE))
        luck = LUCK
    heads = (*_heads(data, "confirm", "holdout"), f"the verdict, {count(shown.n, 'sample')}")
    caption = COUNTED if results.true_drop is None else SOFT
    return LevelTable(heads, tuple((name, tuple(cells)) for name, *cells in rows), caption + luck)


Cell = tuple[str, str]
NONE: Cell = ("", "")


def _level(estimate: Estimate | None, metric: MetricFormat) -> Cell:
    if estimate is None:
        return NONE
    return metric.level(estimate.value), metric.interval(estimate)


def _change(estimate: Estimate, metric: MetricFormat) -> Cell:
    return metric.change(estimate.value, sign=False), metric.interval(estimate)


def _plain_drop(data: ReportData, plan: Plan) -> Estimate:
    """Return the metric of float minus that of the plan on `confirm`, as counted."""
    own = data.own_choice
    return (own and own.point.drop) or plan.metric.counted_drop


def _heads(data: ReportData, *splits: str) -> tuple[str, ...]:
    """Return a head of the table for each split, such as "confirm, 250 samples"."""
    sizes = {name: size for name, size, _ in split_words(data)}
    return tuple(", ".join(filter(None, (split, sizes.get(split, "")))) for split in splits)


def tight(text: str) -> str:
    """Return the text without line breaks between a number and its unit."""
    return re.sub(r"(?<=\d) (?=(?:%|pt|ms)(?!\w))", "\N{NO-BREAK SPACE}", text)


def breakable(name: str) -> Markup:
    """Return a name that a browser may break after each dot, slash or underscore."""
    return Markup("<wbr>").join(Markup(escape(part)) for part in re.split(r"(?<=[./_])", name))  # noqa: S704 escaped
