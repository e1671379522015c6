"""The report as a file: complete, safe, the same each time, and with only the parts that have
content."""

from __future__ import annotations

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib import _pylab_helpers
from support.reporting_samples import complete, effects, scan_only, units, with_graph

from sensitivity.errors import WriteError
from sensitivity.records import Advice, BuiltLayer, Effect, EngineStructure, Estimate, Unit
from sensitivity.reporting.axes import axis_around, spread
from sensitivity.reporting.charts import bands_of, effect_charts
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.html import write_report
from sensitivity.reporting.page import render
from sensitivity.reporting.path import path_chart

EVIL = "<script>alert(1)</script>\"'&$x^2$"
VOID = {"meta", "link", "br", "wbr", "input"}


class Page(HTMLParser):
    """Tags and texts of a page; unclosed tags are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def ids(self) -> set[str | None]:
        return {attributes["id"] for _, attributes in self.tags if "id" in attributes}


def test_a_page_asks_nothing_of_the_network() -> None:
    page = Page(render(complete()))
    links = [
        value for _, found in page.tags for name, value in found.items() if name in ("src", "href")
    ]
    assert all(link and link.startswith(("#", "data:")) for link in links)
    # A drawing refers to the arrow heads in the page itself.
    assert not re.search(r"https?://|@import|url\((?!#arrow)", render(with_graph(complete())))


def test_every_link_of_a_page_leads_to_a_part_that_is_there() -> None:
    for data in (complete(), scan_only(), replace(complete(), timings=(), bench_sentences=())):
        page = Page(render(data))
        assert {str(found["href"])[1:] for tag, found in page.tags if tag == "a"} <= page.ids()


def test_names_and_texts_are_escaped_wherever_they_are_shown() -> None:
    plain = complete(8)
    evil_units = tuple(
        Unit(f"{EVIL}{unit.name}", (f"{EVIL}.weight_quantizer",)) for unit in plain.units
    )
    assert plain.plan
    evil_plan = replace(
        plain.plan,
        skip=tuple(f"{EVIL}{name}" for name in plain.plan.skip),
        reason=EVIL,
        try_next=(EVIL,),
        planner=EVIL,
        notes=(EVIL,),
        advice=Advice("qat", (EVIL,)),
    )
    facts = {EVIL: EVIL}
    timings = tuple(
        replace(timing, file=EVIL, runtime=EVIL, precision=EVIL) for timing in plain.timings
    )
    data = ReportData(
        EVIL, EVIL, 1.0, "disable", EVIL, facts, plain.baselines, effects(evil_units), evil_units,
        evil_plan, timings,
        (EVIL,), facts, facts, (EVIL,),
    )  # fmt: skip
    page = Page(render(data))
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert page.text.count("alert(1)") > 20


def test_a_page_runs_no_script_but_its_own() -> None:
    text = render(complete())
    script = text[text.index("<script>") + len("<script>") : text.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src "
        f"'sha256-{digest}'" in text
    )


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (complete(), {"sensitivities", "baselines", "plan", "latency", "layers", "repeat"}),
        (scan_only(), {"sensitivities", "baselines", "layers", "repeat"}),
        (
            replace(complete(), timings=(), bench_sentences=()),
            {"sensitivities", "baselines", "plan", "layers", "repeat"},
        ),
        (ReportData("t", "top-1", 1.0, "enable", "c"), {"repeat"}),
        (
            ReportData("t", "top-1", 1.0, "enable", "c", bench_sentences=("Slow.",)),
            {"latency", "repeat"},
        ),
        (
            replace(scan_only(), effects=effects(units(3), interval=False)),
            {"sensitivities", "baselines", "layers", "repeat"},
        ),
    ],
    ids=["complete", "scan-only", "no-bench", "nothing", "sentences-only", "no-intervals"],
)
def test_a_page_has_the_parts_there_is_something_for(data: ReportData, parts: set[str]) -> None:
    known = {"sensitivities", "baselines", "plan", "latency", "layers", "repeat"}
    page = Page(render(data))
    assert page.ids() & known == parts
    assert data.command in page.text


def test_the_verdict_comes_before_every_chart() -> None:
    text = render(complete())
    lines = [text.index(f"<dt>{title}</dt>") for title in ("Accuracy", "Speed", "What to do")]
    assert lines == sorted(lines)
    places = [
        text.index(part)
        for part in (
            'id="chart-choices"',
            'id="next-commands"',
            'id="names"',
            '<nav aria-label="Contents">',
            'class="headline"',
            'id="chart-effects"',
        )
    ]
    assert lines[-1] < places[0]
    assert places == sorted(places)


def test_a_page_draws_thirty_layers_and_lists_them_all() -> None:
    page = Page(render(complete(120)))
    # and the axis
    assert sum(found.get("class") == "rank" for tag, found in page.tags if tag == "span") == 30 + 1
    assert sum(tag == "details" for tag, _ in page.tags) == 120 + 2  # sets tried, notes on time
    assert "90 layers more on 300 samples in the table." in " ".join(page.text.split())


def test_every_value_of_a_chart_is_inside_its_axis() -> None:
    (chart,) = effect_charts(complete())
    for row in chart.rows:
        assert row.low is not None
        assert row.high is not None
        assert (
            0 <= chart.axis.at(row.low) <= chart.axis.at(row.value) <= chart.axis.at(row.high) <= 1
        )


def test_ties_and_effects_that_may_be_nothing_are_marked_in_words() -> None:
    (chart,) = effect_charts(complete())
    first, fourth, last = chart.rows[0], chart.rows[3], chart.rows[-1]
    assert (first.place, first.notes, first.band) == ("1", ("left out",), "")
    assert (fourth.place, fourth.notes) == ("", ("left out",))
    assert fourth.band == (
        "Ranks 3 to 28: the data does not settle the whole order of these 26 layers"
    )
    assert (last.notes, last.tone) == (("includes 0",), "muted")


def ranked(ties: list[int], values: list[float], sizes: list[int]) -> tuple[Effect, ...]:
    return tuple(
        Effect(rank, tie, f"layer{rank}", Estimate(value, None, None, n), 0.5)
        for rank, (tie, value, n) in enumerate(zip(ties, values, sizes, strict=True), 1)
    )


def test_a_band_ends_only_where_all_below_are_told_from_all_above() -> None:
    found = ranked([1, 2, 2, 4, 2, 6, 6], [0.0] * 7, [10] * 7)
    bands = [[effect.rank for effect in band] for band in bands_of(found)]
    assert bands == [[1], [2, 3, 4, 5], [6, 7]]


def test_effects_on_few_samples_are_drawn_apart_and_the_largest_comes_first() -> None:
    made = ranked([1, 1, 1, 1, 1], [0.01, -0.02, 0.03, 0.4, 0.0], [50, 50, 50, 8, 0])
    unjudged = Effect(6, 6, "mask", Estimate(0.0, None, None, 50), 0.5, judged=False)
    data = replace(scan_only(), effects=(*made, unjudged))
    charts = effect_charts(data)
    assert [chart.rests for chart in charts] == ["on 50 samples", "on 8 samples"]
    assert [row.name for row in charts[0].rows] == ["layer3", "layer1", "layer2"]
    assert charts[0].rows[0].band.endswith("these 3 layers")
    assert [row.name for row in charts[1].rows] == ["layer4"]
    assert charts[0].axis.high < 0.4 * 100 < charts[1].axis.high
    text = " ".join(Page(render(data)).text.split())
    assert "3 layers measured on 50 samples" in text
    assert "1 layer measured on 8 samples" in text
    assert "1 layer ranked by a cheap signal alone: top-1 was not measured for them" in text
    assert "1 layer not judged: what they compute reaches no output" in text


def test_no_more_than_the_most_sensitive_are_drawn_over_all_charts() -> None:
    data = replace(scan_only(), effects=ranked([1] * 9, [0.1] * 9, [50] * 5 + [8] * 4))
    charts = effect_charts(data, most=7)
    assert [(len(chart.rows), chart.hidden) for chart in charts] == [(5, 0), (2, 2)]
    assert [len(chart.rows) for chart in effect_charts(data, most=5)] == [5]


def test_the_axis_of_the_path_is_around_the_data() -> None:
    data = complete()
    assert data.plan
    chart = path_chart(data.plan, 1.0)
    assert chart.axis.low > 25
    assert chart.counts == (0, 3, 4, 5, 7, 14, 28)
    assert [point.value for point in chart.best] == sorted(point.value for point in chart.best)


def test_a_path_shows_the_chosen_plan_even_if_it_is_not_among_the_tries() -> None:
    data = complete()
    assert data.plan
    chart = path_chart(replace(data.plan, path=()), 1.0)
    assert [(chart.counts[point.slot], point.chosen) for point in chart.points] == [
        (0, False),
        (5, True),
    ]


def test_labels_that_would_overlap_are_pushed_apart_in_their_order() -> None:
    places = spread([0.5, 0.9, 0.51, 0.52], gap=0.05)
    assert sorted(places) == [places[0], places[2], places[3], places[1]]
    assert min(b - a for a, b in zip(sorted(places), sorted(places)[1:], strict=False)) >= 0.0499


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-3.0, -1.0], [1e-9, 2e-9], [0.0, 1e6]])
def test_an_axis_has_ticks_for_any_data(values: list[float]) -> None:
    for zero in (True, False):
        axis = axis_around(values, zero)
        assert axis.low < axis.high
        assert 1 <= len(axis.ticks) <= 8
        assert all(0 <= axis.at(value) <= 1 for value in values)


def test_a_report_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report(complete(), tmp_path / name)
    files = [
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.*")}
        for folder in (tmp_path / "one", tmp_path / "two")
    ]
    assert files[0] == files[1]
    assert {str(path) for path in files[0]} == {
        "report.html", "figures/effects.svg", "figures/baselines.svg", "figures/latency.svg",
        "figures/path.svg",
    }  # fmt: skip


def test_figures_are_valid_svg_with_names_as_they_are_and_the_command_inside(
    tmp_path: Path,
) -> None:
    names = (EVIL, "a$b$\x1ec")
    made = tuple(Unit(name, ()) for name in names)
    before = dict(mpl.rcParams)
    write_report(replace(scan_only(), units=made, effects=effects(made)), tmp_path)
    root = ET.parse(tmp_path / "figures" / "effects.svg").getroot()
    text = " ".join(root.itertext())
    assert EVIL in text
    assert "a$b$\N{REPLACEMENT CHARACTER}c" in text
    assert "--max-drop 1pt" in text
    assert "300 samples" in text
    assert dict(mpl.rcParams) == before
    assert _pylab_helpers.Gcf.figs == {}


def test_a_report_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(WriteError, match=r"Expected to write .*out/figures/effects\.svg"):
        write_report(complete(), tmp_path / "out")


def test_the_engine_has_a_section_that_says_what_was_planned_and_built_and_that_nothing_ran() -> (
    None
):
    layers = (
        BuiltLayer("stem", "int8", "int8"),
        BuiltLayer("head<b>", "int8", "fp16"),
        BuiltLayer("up", "float", "fp16"),
    )
    engine = EngineStructure("1.7.1.116", 120, layers, 9, 4, 5_680)
    data = replace(complete(), engines={"model.partial.onnx": engine})
    page = Page(render(data))
    assert "engine" in page.ids()
    text = " ".join(page.text.split())
    for words in (
        "Structure of the TensorRT-RTX engine",
        "1 of 3 layers is not in the precision that the plan wants.",
        "TensorRT-RTX 1.7.1.116, makes of model.partial.onnx for GPUs of compute capability 12.0.",
        "Nothing was executed: this is structure, and no measure of time.",
        "Planned in INT8 1 of 2",
        "Planned in float 1 of 1",
        "Kernels 9 4 only requantize",
        "Activations 5.68 kB written for one sample",
        "head<b> INT8 FP16 not as planned stem INT8 INT8 up float FP16",
    ):
        assert words.replace(" ", "") in text.replace(" ", ""), words


def test_a_plan_that_the_engine_keeps_is_one_sentence_and_a_missing_engine_says_why() -> None:
    engine = EngineStructure("1.7", 89, (BuiltLayer("stem", "int8", "int8"),), 2, 1, 100)
    kept = Page(render(replace(complete(), engines={"a.onnx": engine}))).text
    assert "Every layer is in the precision that the plan wants." in kept
    assert "not as planned" not in kept
    missing = Page(render(replace(complete(), not_built={"b.onnx": "no wheel"}))).text
    assert "b.onnx was not built: no wheel" in " ".join(missing.split())
    assert "engine" not in Page(render(complete())).ids()
