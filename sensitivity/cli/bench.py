"""`sensitivity bench`: measure latency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensitivity.cli import lazy
from sensitivity.cli.options import aside, long_verb
from sensitivity.config import BenchSettings

if TYPE_CHECKING:
    from sensitivity.cli.progress import Teller


@long_verb(BenchSettings, "bench")
def command(settings: BenchSettings, teller: Teller) -> None:
    """Measure the latency of the exported files, interleaved.

    DIRECTORY is a run directory with exported files.
    """
    with aside():
        lazy.api.bench(settings, teller)
    lazy.render.show_bench(settings.directory, settings.name)
