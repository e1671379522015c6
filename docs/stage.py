"""Copy the pages of the site, and the files that they link to, into one folder that keeps the
layout of the repository.

    python docs/stage.py build/pages && mkdocs build --strict

MkDocs reads one folder, while pages of `docs/` link to `examples/`, `benchmarks/`, `findings/` and
`reports/` beside it.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (
    "*.md",
    "docs/**/*.md",
    "examples/*/*.md",
    "benchmarks/**/*.md",
    "findings/*.md",
    "reports/**/*.md",
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def files_of_the_site() -> set[Path]:
    """Return every page, and every file that a page links to."""
    pages = {page for pattern in PAGES for page in ROOT.glob(pattern)}
    return pages | {file for page in pages for file in linked(page)}


def linked(page: Path) -> set[Path]:
    """Return the files of this repository that a page links to, the README.md of a folder."""
    targets = {
        (page.parent / link).resolve()
        for link in LINK.findall(page.read_text())
        if "://" not in link
    }
    return {target / "README.md" if target.is_dir() else target for target in targets}


def main(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for file in files_of_the_site():
        copy = folder / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
