"""The page in a real browser: sorting, searching, and no script error under its own security
policy."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.reporting_samples import complete

from sensitivity.records import Estimate
from sensitivity.reporting.page import render

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on this machine: sorting and searching not run"
)

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip

PROBE = """
const found = {};
const all = (selector) => [...document.querySelectorAll(selector)];
const heads = () => all("#layer-table th button");
const head = (name) => heads().find((button) => button.textContent.startsWith(name));
const visible = () => all("#layer-table tbody tr").filter((row) => !row.hidden);
const ranks = () => visible().map((row) => Number(row.cells[0].textContent));
const sorts = () =>
  all("#layer-table th").map((cell) => cell.getAttribute("aria-sort")).filter(Boolean);
const search = document.querySelector("#search");
const type = (words) => { search.value = words; search.dispatchEvent(new Event("input")); };
found.start = ranks();
head("Rank").click(); found.rank_down = ranks();
head("Low").click(); found.low_up = ranks();
head("Low").click(); found.low_down = ranks();
found.sorts = sorts();
head("Layer").click(); found.layer_up = ranks();
type("STAGE2 weight"); found.searched = ranks();
found.count = document.querySelector("output").textContent;
head("Rank").click(); found.searched_sorted = ranks();
type("nothing like it"); found.none = ranks();
type(""); found.all = ranks().length;
found.wide = document.documentElement.scrollWidth > window.innerWidth;
document.title = JSON.stringify(found);
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the probe saw in a page of 12 layers, the third of which has no interval."""
    folder = tmp_path_factory.mktemp("browser")
    data = complete(12)
    holed = replace(data.effects[2], effect=Estimate(0.08, None, None, 1))
    data = replace(data, effects=(*data.effects[:2], holed, *data.effects[3:]))
    probe = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    text = render(data).replace("script-src ", f"script-src 'sha256-{probe}' ", 1)
    (folder / "page.html").write_text(text.replace("</body>", f"<script>{PROBE}</script></body>"))
    return json.loads(title_after_scripts(folder / "page.html", folder))


def title_after_scripts(page: Path, folder: Path) -> str:
    assert BROWSER
    command = [
        BROWSER,
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
        page.as_uri(),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title
    return html.unescape(title[1])


def test_rows_start_by_rank_and_turn_round_on_a_second_sort(found: Any) -> None:
    assert found["start"] == list(range(1, 13))
    assert found["rank_down"] == list(range(12, 0, -1))


def test_numbers_are_sorted_as_numbers_and_what_is_missing_goes_last(found: Any) -> None:
    assert found["low_down"][:3] == [1, 2, 4]
    assert found["low_down"][-1] == 3
    assert found["low_up"][-1] == 3
    assert found["low_up"][:-1] == found["low_down"][:-1][::-1]
    assert found["sorts"] == ["descending"]


def test_names_are_sorted_in_the_order_of_their_numbers(found: Any) -> None:
    assert found["layer_up"] == list(range(1, 13))


def test_a_search_finds_layers_by_all_words_of_names_and_quantizers_and_counts_them(
    found: Any,
) -> None:
    assert found["searched"] == [7, 8, 9, 10, 11, 12]
    assert found["count"] == "6 of 12"
    assert found["searched_sorted"] == [7, 8, 9, 10, 11, 12]
    assert found["none"] == []
    assert found["all"] == 12


def test_a_page_is_not_wider_than_its_window(found: Any) -> None:
    assert not found["wide"]
