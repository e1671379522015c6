"""`sensitivity demo`: the whole job on handwritten digits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sensitivity.cli import lazy
from sensitivity.cli.options import aside, long_verb
from sensitivity.config import DemoSettings, RunSettings

if TYPE_CHECKING:
    from sensitivity.cli.progress import Teller


@long_verb(DemoSettings, "demo")
def command(settings: DemoSettings, teller: Teller) -> int:
    """Run the whole job on handwritten digits, in minutes.

    Calibrates a small RepVGG with ModelOpt, and does what `sensitivity run` does.
    The run directory then holds a task file to read and change. The same command continues where
    it stopped.

    Exit codes: 0 target met, 2 target missed, 1 error.
    """
    with aside():
        reference = lazy.demo.prepare(Path(settings.out))
        chosen = RunSettings(task=reference, out=settings.out, resume=True, max_drop="1pt")
        plan = lazy.api.run(chosen, teller)
    lazy.render.show(settings.out, ranking=True, latency=True)
    click.echo(f"Report: {settings.out / 'report.html'}")
    return 0 if plan.met else 2
