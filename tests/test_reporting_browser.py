"""The pages in a real browser, under their own security policy: sorting, searching, choosing and
copying by mouse and by keyboard. Nothing is cut off, and all text can be read."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.commands import verb
from support.reporting_samples import complete, with_choices, with_graph, with_values
from support.scripts import load_script

from sensitivity.records import Estimate
from sensitivity.reporting.page import render

chromium = load_script("benchmarks/chromium.py")
pytestmark = pytest.mark.skipif(
    chromium.BROWSER is None, reason="no Chromium on this machine: pages are not tried in a browser"
)
REPORTS = sorted((Path(__file__).parents[1] / "reports").glob("*/report.html"))

RANKS = """[...document.querySelectorAll("#layer-table tbody tr")].filter((row) => !row.hidden)
  .map((row) => Number(row.cells[0].textContent))"""

CONTRAST = """
(() => {
  const channel = (value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  };
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const behind = (part) => {
    for (let at = part; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const part = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || part.closest("script, style, .box, title")) continue;
    if (!part.checkVisibility()) continue;
    const style = getComputedStyle(part);
    const text = parse(part instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(text), light(behind(part))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${texts.currentNode.data.trim().slice(0, 40)}: ${ratio}`);
  }
  return found;
})()
"""
"""The texts whose contrast with their background is below WCAG AA, with their ratio."""

AXE = """
(() => {
  document.querySelectorAll("tbody tr:nth-child(n + 9)").forEach((row) => row.remove());
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
  const rules = {"color-contrast": {enabled: false}};
  return axe.run({rules, iframes: false, resultTypes: ["violations"]}).then((found) =>
    found.violations.flatMap(({id, nodes}) => nodes.map((node) => `${id}: ${node.html}`)));
})()
"""
"""The faults that axe finds, each with its element. Of a table, whose rows are alike, it checks
eight rows, since it needs minutes for 358. `CONTRAST` measures colours faster."""


def axe_script() -> str:
    """The script of axe, out of a package whose import needs a driver of browsers."""
    package = importlib.util.find_spec("axe_playwright_python")
    if package is None or package.origin is None:
        pytest.skip("axe-playwright-python, which holds axe, is not installed")
    return Path(package.origin).with_name("axe.min.js").read_text()


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with chromium.browser() as found:
        found.call("Browser.grantPermissions", permissions=["clipboardReadWrite"])
        found.show(1400, 1000)
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 12 layers, the third of which has no interval, with three sets to choose from."""
    data = with_choices(complete(12))
    holed = replace(data.effects[2], effect=Estimate(0.08, None, None, 1))
    data = replace(data, effects=(*data.effects[:2], holed, *data.effects[3:]))
    made = tmp_path_factory.mktemp("browser") / "report.html"
    made.write_text(render(data))
    return made


@pytest.fixture
def opened(page: Any, file: Path) -> Iterator[Any]:
    page.show(1400, 1000)
    page.open(file)
    yield page
    assert page.errors == []


def click_head(page: Any, column: int) -> list[int]:
    """The ranks of the layer table after a click on the head of a column."""
    page.click(f"#layer-table th:nth-child({column}) button")
    return page.js(RANKS)


def test_rows_start_by_rank_and_turn_round_on_a_second_sort(opened: Any) -> None:
    assert opened.js(RANKS) == list(range(1, 13))
    assert click_head(opened, 1) == list(range(12, 0, -1))


def test_numbers_are_sorted_as_numbers_and_what_is_missing_goes_last(opened: Any) -> None:
    up = click_head(opened, 4)
    down = click_head(opened, 4)
    assert down[:3] == [1, 2, 4]
    assert down[-1] == up[-1] == 3
    assert up[:-1] == down[:-1][::-1]
    sorts = '[...document.querySelectorAll("[aria-sort]")].map((head) => head.ariaSort)'
    assert opened.js(sorts) == ["descending"]


def test_names_are_sorted_in_the_order_of_their_numbers(opened: Any) -> None:
    assert click_head(opened, 2) == list(range(1, 13))


def test_a_search_finds_layers_by_all_words_of_names_and_quantizers_and_counts_them(
    opened: Any,
) -> None:
    opened.click("#search")
    opened.type("STAGE2 weight")
    assert opened.js(RANKS) == [7, 8, 9, 10, 11, 12]
    assert opened.js("document.querySelector('output[for=search]').textContent") == "6 of 12"
    assert click_head(opened, 1) == [12, 11, 10, 9, 8, 7]
    opened.click("#search")
    opened.type(" nothing like it")
    assert opened.js(RANKS) == []


SHOWN = (
    "[...document.querySelectorAll('.map [data-layers]')].filter((box) => box.checkVisibility())"
)


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 48 layers in eight blocks, with a picture of its model."""
    pytest.importorskip("graphlay")
    made = tmp_path_factory.mktemp("folded") / "report.html"
    made.write_text(render(with_values(with_graph(complete(48)))))
    return made


def drawer(page: Any) -> str:
    """The name in the drawer; "" if it is closed."""
    part = "document.querySelector('.drawer')"
    return page.js(f"{part}.hidden ? '' : {part}.querySelector('h2').textContent")


def test_a_block_and_then_a_layer_open_by_keyboard_and_close_by_escape(
    page: Any, folded: Path
) -> None:
    page.show(1400, 1000)
    page.open(folded)
    page.js(f"{SHOWN}.find((box) => box.ariaLabel.startsWith('Block stage2')).focus()")
    page.press("Enter")
    inside = "document.querySelector('[data-view]:not([hidden]) h3').textContent"
    assert page.js(inside).startswith("Inside stage2")
    page.js(f"{SHOWN}.find((box) => box.ariaLabel.startsWith('stage2.3:')).focus()")
    page.press("Enter")
    assert drawer(page) == "stage2.3"
    told = page.js("document.querySelector('.drawer dl').innerText")
    assert "stage2.2" in told
    assert "stage2.3.weight_quantizer" in told
    page.press("Escape")
    assert drawer(page) == ""
    assert page.js("document.activeElement.ariaLabel").startswith("stage2.3:")
    assert page.errors == []


def test_a_name_in_the_table_opens_its_layer_and_the_block_that_it_is_in(
    page: Any, folded: Path
) -> None:
    page.show(1400, 1000)
    page.open(folded)
    page.click("#layer-table tbody tr:nth-child(20) .opens-layer")
    assert drawer(page) == "stage4.1"
    assert page.js("document.querySelectorAll('tr.picked').length") == 1
    assert page.js(f"{SHOWN}.some((box) => box.matches('.picked.box-layer'))")
    page.click(".drawer .close")
    assert drawer(page) == ""


def test_a_layer_whose_values_were_kept_is_drawn_with_its_ranges(page: Any, folded: Path) -> None:
    opened_block(page, folded, 1400)
    titles = "[...document.querySelectorAll('.histograms h4')].map((title) => title.textContent)"
    assert page.js(titles) == ["Weights", "Activations"]
    assert page.js("document.querySelectorAll('.histograms svg path').length") == 3
    assert page.js("document.querySelectorAll('.histograms line.original').length") == 4
    page.js("document.querySelector('#layer-table tbody tr:nth-child(2) .opens-layer').click()")
    assert page.js(titles) == []


def test_both_searches_find_the_same_layers_in_picture_and_table(page: Any, folded: Path) -> None:
    page.show(1400, 1000)
    page.open(folded)
    page.click("#search-map")
    page.type("stage3.2")
    lit = f"{SHOWN}.filter((box) => !box.classList.contains('dim')).map((box) => box.ariaLabel)"
    assert [label.split(":")[0] for label in page.js(lit)] == ["Block stage3"]
    assert page.js(RANKS) == [15]
    assert page.js("document.querySelector('#search').value") == "stage3.2"


def picked(page: Any) -> tuple[str, str, str]:
    """The layers, the state and the command that the section What if shows."""
    shows = "document.querySelector('[data-shows={}]').textContent"
    command = page.js("document.querySelector('#picked-command').textContent")
    return page.js(shows.format("layers")), page.js(shows.format("state")), command


def test_the_slider_starts_at_the_plan_and_goes_through_the_choices_by_keyboard(
    opened: Any,
) -> None:
    state = "met on confirm; not proven on all samples; this is the plan"
    plan = ("5 of 12 layers", state, "this is the plan")
    cheapest = ("0 of 12 layers", "missed on confirm", "sensitivity plan . --max-drop 4.0pt")
    assert picked(opened) == plan
    opened.js("document.querySelector('#option').focus()")
    opened.press("ArrowLeft")
    assert picked(opened) == cheapest
    words = "document.querySelector('#option').ariaValueText"
    assert opened.js(words).startswith("0 of 12 layers, 48.2 %")
    opened.press("End")
    assert picked(opened) == plan


def test_a_drop_that_one_can_take_picks_the_cheapest_choice_within_it(opened: Any) -> None:
    opened.click("#allowed")
    opened.type("4.5")
    assert picked(opened)[0] == "0 of 12 layers"
    opened.js("document.querySelector('#allowed').value = ''")
    opened.type("3.9")
    assert picked(opened)[0] == "5 of 12 layers"


def test_a_click_on_a_point_picks_its_choice(opened: Any) -> None:
    opened.click("#chart-what-if [data-option='0'] circle")
    assert picked(opened)[0] == "0 of 12 layers"


def test_names_and_commands_are_copied(opened: Any) -> None:
    button = "document.querySelector('[data-copies=picked-command]').checkVisibility()"
    assert not opened.js(button)  # there is no command for what is the plan already
    opened.js("document.querySelector('#option').focus()")
    opened.press("ArrowLeft")
    for name in ("names", "next-commands", "picked-command"):
        opened.click(f"[data-copies={name}]")
        copied = opened.js("navigator.clipboard.readText()")
        assert copied == opened.js(f"document.querySelector('#{name}').textContent")
        assert copied


def test_everything_that_acts_can_be_reached_by_tab(opened: Any) -> None:
    acts = "[...document.querySelectorAll('a[href], button, input, summary, pre[tabindex]')]"
    every = opened.js(f"{acts}.filter((part) => part.checkVisibility()).length")
    opened.js("window.seen = new Set(); document.activeElement.blur()")
    for _ in range(every):
        opened.press("Tab")
        opened.js("void window.seen.add(document.activeElement)")
    assert opened.js(f"{acts}.filter((one) => one.checkVisibility() && !seen.has(one)).length") == 0


def test_on_paper_nothing_that_only_acts_is_left_and_all_names_are_shown(opened: Any) -> None:
    opened.show(720, 1000, printed=True)
    shown = "[...document.querySelectorAll({!r})].filter((part) => part.checkVisibility()).length"
    assert opened.js(shown.format(".copy, nav, .controls, .search")) == 0
    assert opened.js(shown.format("#names, #chart-choices, .lines")) == 3
    assert opened.pdf().startswith(b"%PDF-")


@pytest.mark.parametrize("width", [1400, 800, 400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_is_cut_off_and_all_text_can_be_read(
    page: Any, file: Path, width: int, dark: bool
) -> None:
    screenshots = load_script("benchmarks/screenshots.py")
    page.show(width, 900, dark=dark)
    page.open(file)
    page.js("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    page.js("new Promise((done) => setTimeout(done, 100))")
    assert page.js(screenshots.CUT_OFF) == []
    assert page.js(CONTRAST) == []


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.parent.name)
def test_the_committed_reports_are_whole_on_a_phone(page: Any, report: Path) -> None:
    assert report.stat().st_size < 2_000_000
    page.show(400, 800)
    page.open(report)
    assert page.js("document.documentElement.scrollWidth") == 400
    assert page.errors == []


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.parent.name)
def test_axe_finds_nothing_wrong_with_the_committed_reports(page: Any, report: Path) -> None:
    page.show(1400, 1000)
    page.open(report)
    page.js(f"{axe_script()};0")
    assert page.js(AXE) == []


def test_axe_finds_nothing_wrong_with_a_comparison(page: Any, tmp_path: Path) -> None:
    compared = [report.parent for report in REPORTS[:2]]
    assert verb("compare", *compared, "--out", tmp_path) == 0
    page.open(tmp_path / "compare.html")
    page.js(f"{axe_script()};0")
    assert page.js(AXE) == []


def test_axe_would_find_a_page_without_a_language_and_a_button_without_a_name(
    page: Any, file: Path
) -> None:
    page.open(file)
    page.js(f"{axe_script()};0")
    assert page.js(AXE) == []
    page.js("document.documentElement.removeAttribute('lang')")
    page.js("document.querySelector('.copy').textContent = ''")
    assert [found.partition(":")[0] for found in page.js(AXE)] == ["button-name", "html-has-lang"]


def opened_block(page: Any, folded: Path, width: int, *, dark: bool = False) -> None:
    """The report with the picture, a block of it open and a layer in the drawer."""
    page.show(width, 900, dark=dark)
    page.open(folded)
    page.js("document.querySelector('#layer-table tbody tr:nth-child(1) .opens-layer').click()")


@pytest.mark.parametrize("width", [1400, 800, 400])
def test_the_picture_fits_its_place_and_can_be_read(page: Any, folded: Path, width: int) -> None:
    opened_block(page, folded, width, dark=width == 800)
    assert page.js(CONTRAST) == []
    assert page.js("document.documentElement.scrollWidth") == width
    pans = "[...document.querySelectorAll('.pan')]"
    assert page.js(f"{pans}.some((pan) => pan.scrollWidth > pan.clientWidth)") is False


def test_axe_finds_nothing_wrong_with_the_picture_and_the_drawer(page: Any, folded: Path) -> None:
    opened_block(page, folded, 1400)
    page.js(f"{axe_script()};0")
    assert page.js(AXE) == []
