"""The documents keep up with the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sensitivity.cli.main import VERBS
from sensitivity.cli.reference import markdown

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*/README.md")]
)


def test_the_command_reference_is_what_help_says() -> None:
    assert (ROOT / "docs/commands.md").read_text() == markdown(), (
        "run: python -m sensitivity.cli.reference > docs/commands.md"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_are_alive(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page.name} links to {link}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_documents_name_verbs_and_options_that_exist(page: Path) -> None:
    reference = markdown()
    for block in re.findall(
        r"```(?:bash|text|console)?\n(.*?)```", page.read_text(), flags=re.DOTALL
    ):
        for line in re.findall(r"^(?:\$ )?sensitivity (.+)$", block, flags=re.MULTILINE):
            verb, *words = line.split()
            assert verb in VERBS, f"{page.name}: sensitivity {verb}"
            section = reference.partition(f"## sensitivity {verb}\n")[2].partition("\n## ")[0]
            for option in (word.partition("=")[0] for word in words if word.startswith("--")):
                assert option in section, f"{page.name}: sensitivity {verb} {option}"
