"""`sensitivity compare`: runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sensitivity.cli import lazy
from sensitivity.cli.options import verb
from sensitivity.config import CompareSettings

if TYPE_CHECKING:
    from sensitivity.reporting.compare import Cell, ComparedRun


@verb(CompareSettings, "compare")
def command(settings: CompareSettings) -> None:
    """Show runs, or the plans of one run, side by side.

    DIRECTORIES are run directories with a plan, or folders with the plan.json, scan.csv and
    bench.csv of one; one run directory alone stands for all its plans. Nothing in them is changed.
    """
    runs = lazy.api.compare(settings)
    lazy.console.Console(highlight=False).print(side_by_side(runs))
    if settings.out is not None:
        click.echo(f"Comparison: {settings.out / 'compare.html'}")


def side_by_side(runs: tuple[ComparedRun, ...]) -> lazy.table.Table:
    """Return a table with one row for each thing compared and one column for each run."""

    def shown(cell: Cell) -> str:
        return lazy.markup.escape(f"{cell.text}\n{cell.detail}".rstrip())

    table = lazy.table.Table("")
    for run in runs:
        table.add_column(lazy.markup.escape(run.name), overflow="fold")
    for fact in lazy.compare.verdict_facts(runs):
        table.add_row(fact.title, *(lazy.markup.escape(cell.text) for cell in fact.cells))
    for fact in lazy.compare.facts(runs):
        table.add_row(fact.title, *map(shown, fact.cells))
    return table
