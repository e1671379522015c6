"""`sensitivity compare`: runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sensitivity.cli.options import verb
from sensitivity.config import CompareSettings

if TYPE_CHECKING:
    from rich.table import Table

    from sensitivity.reporting.compare import Cell, ComparedRun


@verb(CompareSettings, "compare")
def command(settings: CompareSettings) -> None:
    """Show runs, or the plans of one run, side by side.

    DIRECTORIES are run directories with a plan, or folders that hold the plan.json, scan.csv and
    bench.csv of one; one run directory alone stands for all its plans. Nothing in them is changed.
    """
    from rich.console import Console

    from sensitivity import api

    runs = api.compare(settings)
    Console(highlight=False).print(side_by_side(runs))
    if settings.out is not None:
        click.echo(f"Comparison: {settings.out / 'compare.html'}")


def side_by_side(runs: tuple[ComparedRun, ...]) -> Table:
    """One row for each thing compared, one column for each run."""
    from rich.markup import escape
    from rich.table import Table

    from sensitivity.reporting.compare import facts, verdict_facts

    def shown(cell: Cell) -> str:
        return escape(f"{cell.text} {cell.detail}".rstrip())

    table = Table("", *(escape(run.name) for run in runs))
    for fact in verdict_facts(runs):
        table.add_row(fact.title, *(escape(cell.text) for cell in fact.cells))
    for fact in facts(runs):
        table.add_row(fact.title, *map(shown, fact.cells))
    return table
