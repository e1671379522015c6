"""`sensitivity export`: write and verify the ONNX files."""

from __future__ import annotations

import click

from sensitivity.cli.options import verb
from sensitivity.config import ExportSettings


@verb(ExportSettings, "export")
def command(settings: ExportSettings) -> None:
    """Write and verify the float, INT8 and partial ONNX files.

    DIRECTORY is a run directory with a plan.
    """
    from sensitivity import api
    from sensitivity.cli.progress import bar
    from sensitivity.exporters.facts import facts

    verification = api.export(settings, bar)
    for file, fact in facts(verification).items():
        click.echo(f"{file}: {fact}")
