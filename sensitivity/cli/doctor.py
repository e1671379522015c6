"""`sensitivity doctor`: what is installed and what works here."""

from __future__ import annotations

import click

from sensitivity.cli import later


@click.command("doctor")
def command() -> None:
    """Show what is installed, what is missing, and what it would add."""
    console = later.console.Console()
    table = later.table.Table(
        "package", "version", "what it adds", "how to get it", title="Packages"
    )
    for package in later.doctor.packages():
        table.add_row(
            package.name,
            package.version or "-",
            package.purpose,
            "" if package.version else later.markup.escape(package.install),
        )
    console.print(table)
    table = later.table.Table("runtime", "works here", "version or reason", title="Runtimes")
    for runtime in later.doctor.runtimes():
        table.add_row(
            runtime.name,
            "no" if runtime.problem else "yes",
            later.markup.escape(runtime.problem or runtime.version),
        )
    console.print(table)
    additions = later.doctor.additions()
    if not additions:
        return
    table = later.table.Table("package", "what", "name", "usable", title="From other packages")
    for addition in additions:
        usable = later.markup.escape(addition.problem or "yes")
        table.add_row(addition.package, addition.kind, addition.name, usable)
    console.print(table)
