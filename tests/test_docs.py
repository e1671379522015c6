"""The documents agree with the program."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from sensitivity.cli.main import VERBS, group
from sensitivity.cli.reference import markdown
from sensitivity.errors import SensitivityError

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
PROMPTS = {
    "bash": re.compile(r"\s*(?:\$ )?(\S.*)"),
    "console": re.compile(r"\s*\$ (.+)"),
    "yaml": re.compile(r"\s*- (?:run: )?((?:sensitivity|pip) .+)"),
}
"""The prompt of a command in each kind of block."""
OPTIONS_FILE = re.compile(r"```toml\n# (\S+\.toml)\n(.*?)```", re.DOTALL)
EXTRAS = set(
    tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
)
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*/README.md")]
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
def test_commands_in_the_documents_are_those_of_the_program(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in OPTIONS_FILE.findall(page.read_text()):
        Path(name).write_text(content)
    for line in command_lines(page):
        words = shlex.split(line, comments=True)
        for word in words:
            place = word.partition(":")[0]
            if place.startswith(("examples/", "reports/", "benchmarks/", "findings/", "docs/")):
                assert (ROOT / place).exists(), f"{page.name}: {line}"
        extras = re.findall(r"layer-sensitivity\[([\w,-]+)\]", line)
        assert {name for one in extras for name in one.split(",")} <= EXTRAS, f"{page.name}: {line}"
        if words[0] == "sensitivity":
            parse(words[1:], f"{page.name}: {line}")


def command_lines(page: Path) -> Iterator[str]:
    """The commands that a reader types into a shell: the lines of a bash block, the lines with a
    prompt in a console block, and the steps of a pipeline. Pipes and redirections are cut off."""
    for kind, block in BLOCK.findall(page.read_text()):
        prompt = PROMPTS.get(kind)
        for line in block.replace("\\\n", " ").splitlines():
            found = prompt.match(line) if prompt else None
            if found:
                yield re.split(r" (?:\||>>?|&&|;) ", found[1])[0]


def parse(words: list[str], line: str) -> None:
    """Let the program parse a command line without executing it."""
    at = next((at for at, word in enumerate(words) if word in VERBS), None)
    if at is None:
        assert words[0] in ("--help", "--version"), line
        return
    context = group.make_context("sensitivity", words[: at + 1])
    command, rest = group.get_command(context, words[at]), words[at + 1 :]
    assert command is not None
    if isinstance(command, click.Group):
        context = command.make_context(words[at], rest[:1], parent=context)
        command, rest = command.get_command(context, rest[0]), rest[1:]
        assert command is not None, line
    try:
        command.make_context(command.name, rest, parent=context)
    except (click.UsageError, SensitivityError) as error:
        raise AssertionError(f"{line}: {error}") from error
