"""`sensitivity compare`: runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sensitivity.cli import later
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
    runs = later.api.compare(settings)
    later.console.Console(highlight=False).print(side_by_side(runs))
    if settings.out is not None:
        click.echo(f"Comparison: {settings.out / 'compare.html'}")


def side_by_side(runs: tuple[ComparedRun, ...]) -> later.table.Table:
    """Return a table with one row for each thing compared and one column for each run."""

    def shown(cell: Cell) -> str:
        return later.markup.escape(f"{cell.text}\n{cell.detail}".rstrip())

    table = later.table.Table("")
    for run in runs:
        table.add_column(later.markup.escape(run.name), overflow="fold")
    for fact in later.compare.verdict_facts(runs):
        table.add_row(fact.title, *(later.markup.escape(cell.text) for cell in fact.cells))
    for fact in later.compare.facts(runs):
        table.add_row(fact.title, *map(shown, fact.cells))
    return table
