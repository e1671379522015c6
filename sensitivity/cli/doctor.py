"""`sensitivity doctor`: what is installed and what works here."""

from __future__ import annotations

import click

from sensitivity.cli import lazy


@click.command("doctor")
def command() -> None:
    """Show what is installed, what is missing, and what it would add."""
    console = lazy.console.Console()
    table = lazy.table.Table(
        "package", "version", "what it adds", "how to get it", title="Packages"
    )
    for package in lazy.doctor.packages():
        table.add_row(
            package.name,
            package.version or "-",
            package.purpose,
            "" if package.version else lazy.markup.escape(package.install),
        )
    console.print(table)
    table = lazy.table.Table("runtime", "works here", "version or reason", title="Runtimes")
    for runtime in lazy.doctor.runtimes():
        table.add_row(
            runtime.name,
            "no" if runtime.problem else "yes",
            lazy.markup.escape(runtime.problem or runtime.version),
        )
    console.print(table)
    additions = lazy.doctor.additions()
    if not additions:
        return
    table = lazy.table.Table("package", "what", "name", "usable", title="From other packages")
    for addition in additions:
        usable = lazy.markup.escape(addition.problem or "yes")
        table.add_row(addition.package, addition.kind, addition.name, usable)
    console.print(table)
