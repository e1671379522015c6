"""`sensitivity export`: write and verify the ONNX files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sensitivity.cli import lazy
from sensitivity.cli.options import aside, long_verb
from sensitivity.config import ExportSettings

if TYPE_CHECKING:
    from sensitivity.cli.progress import Teller


@long_verb(ExportSettings, "export")
def command(settings: ExportSettings, teller: Teller) -> None:
    """Write and verify the float, INT8 and partial ONNX files.

    DIRECTORY is a run directory with a plan. The files of a named plan are written to plans/NAME.
    With --config the plan is written as the settings of another tool instead, which quantizes the
    float model itself.
    """
    if settings.config is not None:
        with aside():
            written = lazy.api.write_config(settings, teller)
        for line in written.lines:
            click.echo(line)
        return
    with aside():
        verification = lazy.api.export(settings, teller)
    for file, fact in lazy.facts.facts(verification).items():
        click.echo(f"{file}: {fact}")
