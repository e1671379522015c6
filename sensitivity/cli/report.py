"""`sensitivity report`: write the report."""

from __future__ import annotations

import click

from sensitivity.cli import lazy
from sensitivity.cli.options import verb
from sensitivity.config import ReportSettings


@verb(ReportSettings, "report")
def command(settings: ReportSettings) -> None:
    """Write report.html, the CSV files and the figures.

    DIRECTORY is a run directory; the report shows the steps that have been done in it. The report
    of a named plan is written to plans/NAME.
    """
    if settings.format == "netron":
        click.echo(f"For Netron: {lazy.api.described(settings)}")
        return
    if settings.format != "html":
        click.echo(lazy.api.summary(settings), nl=False)
        return
    click.echo(f"Report: {lazy.api.report(settings)}")
    if settings.log is not None:
        click.echo(f"Logged with {settings.log}.")
    unfinished = lazy.run_dir.RunDir(settings.directory).unfinished()
    if unfinished:
        click.echo(f"Note: {unfinished}")
