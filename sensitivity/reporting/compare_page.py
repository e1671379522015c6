"""A comparison of runs as one self-contained HTML file, and as CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sensitivity.files import write_whole
from sensitivity.reporting.compare import (
    ComparedRun,
    facts,
    layer_rows,
    layers_table,
    runs_table,
)
from sensitivity.reporting.csv import write_csv
from sensitivity.reporting.page import page


def write_comparison(runs: Sequence[ComparedRun], out: Path) -> None:
    """Write compare.csv, compare_layers.csv and compare.html into the folder `out`.

    Raises WriteError.
    """
    write_csv(runs_table(runs), out / "compare.csv")
    write_csv(layers_table(runs), out / "compare_layers.csv")
    write_whole(out / "compare.html", render_comparison(runs).encode())


def render_comparison(runs: Sequence[ComparedRun]) -> str:
    """Return the whole page.

    Every text of the runs is escaped, and the page may run only its own script.
    """
    return page(
        "compare.html.j2",
        runs=runs,
        facts=facts(runs),
        layers=layer_rows(runs),
        modes={run.data.mode for run in runs},
    )
