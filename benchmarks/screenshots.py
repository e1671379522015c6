"""Pictures of report pages as readers see them: three widths, light and dark.

    python benchmarks/screenshots.py [--out FOLDER] [FILE ...]

Without files, all reports/*/report.html are taken. A page that is cut off, or wider than its
window, is an error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chromium import Page

ROOT = Path(__file__).parents[1]
WIDTHS = (1400, 800, 400)
HEIGHTS = {1400: 1000, 800: 1100, 400: 800}
MOST = 12_000
"""Height in pixels at which a picture is cut. Below it are only rows of the layer table."""

CUT_OFF = """
[...document.querySelectorAll("body, .scroll, .choices")]
  .filter((part) => part.checkVisibility() && part.scrollWidth > part.clientWidth + 1)
  .map((part) => `${part.closest("[id]")?.id}: ${part.scrollWidth} > ${part.clientWidth}`)
"""
"""The elements that are wider than their place, each with its size."""


def main() -> int:
    """The number of pages that are cut off somewhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    files = given.files or sorted(ROOT.glob("reports/*/report.html"))
    out = given.out or Path(tempfile.mkdtemp(prefix="screenshots-"))
    out.mkdir(parents=True, exist_ok=True)
    from chromium import browser  # stands beside this script, which tests load by its path

    with browser() as page:
        wrong = sum(pictured(page, file, out) for file in files)
    print(f"Pictures of {len(files)} pages: {out}")
    return 1 if wrong else 0


def pictured(page: Page, file: Path, out: Path) -> bool:
    """Write six pictures of a page. Returns whether something of it is cut off."""
    wrong = False
    for width in WIDTHS:
        for dark in (False, True):
            page.show(width, HEIGHTS[width], dark=dark)
            page.open(file)
            name = f"{file.parent.name}_{width}_{'dark' if dark else 'light'}.png"
            page.picture(out / name, MOST)
            for words in [*page.errors, *page.js(CUT_OFF)]:
                print(f"{name}: {words}", file=sys.stderr)
                wrong = True
    return wrong


if __name__ == "__main__":
    sys.exit(main())
