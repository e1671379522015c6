"""`sensitivity bench`: measure latency."""

from __future__ import annotations

from sensitivity.cli.options import verb
from sensitivity.config import BenchSettings


@verb(BenchSettings, "bench")
def command(settings: BenchSettings) -> None:
    """Measure the latency of the exported files, interleaved.

    DIRECTORY is a run directory with exported files.
    """
    from sensitivity import api
    from sensitivity.cli.progress import bar
    from sensitivity.cli.render import show_bench

    api.bench(settings, bar)
    show_bench(settings.directory)
