"""Output of `--dry-run`."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from sensitivity.cli.course import rounded
from sensitivity.steps.dry_run import Forecast


def show_forecast(forecast: Forecast) -> None:
    """Print the forecast of a job."""
    console = Console(highlight=False)
    console.print(sizes(forecast), soft_wrap=True, markup=False)
    console.print(steps_table(forecast))
    console.print(f"Disk: {between(forecast.disk, mebibytes)}.", soft_wrap=True, markup=False)
    for sentence in forecast.assumed:
        console.print(f"Assumed: {sentence}", soft_wrap=True, markup=False)


def sizes(forecast: Forecast) -> str:
    """Return a sentence about the size of the job and what the batch took."""
    size, pace = forecast.size, forecast.pace
    what = "samples" if size.compares else "evaluations"
    a_sample = f"a {what.removesuffix('s')}"
    return (
        f"{size.units} units of {forecast.layers} layers; up to {size.rank} {what} of rank, "
        f"{size.confirm} of confirm and {size.holdout} of holdout. Timed on one batch of "
        f"{size.batch}: {short(pace.unit)} {a_sample} in a scan, {short(pace.whole)} in a plan."
    )


def short(seconds: float) -> str:
    """Return a measured time as text.

    >>> short(0.00123), short(0.5), short(12.34)
    ('1.23 ms', '500 ms', '12.3 s')
    """
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def steps_table(forecast: Forecast) -> Table:
    """Return a table with one row for each step and one for all."""
    table = Table("step", "samples", "time", "memory")
    for step in forecast.steps:
        memory = between(step.memory, mebibytes) if step.memory else "not known"
        samples = between(step.samples, "{:.0f}".format) if step.samples[1] else "-"
        table.add_row(step.name, samples, between(step.seconds, rounded), memory)
    table.add_row("all", "", between(forecast.seconds, rounded), "", style="bold")
    return table


def between(least_and_most: tuple[float, float], written: Callable[[float], str]) -> str:
    """Return the least and the most as text, or only one if both read the same.

    >>> between((20, 200), rounded), between((100, 101), rounded)
    ('20 s to 3 min', 'about 2 min')
    """
    least, most = map(written, least_and_most)
    if least != most:
        return f"{least} to {most}"
    return least if least.startswith("under") else f"about {least}"


def mebibytes(size: float) -> str:
    """Return bytes in MiB, with two digits or as a whole number.

    >>> [mebibytes(size) for size in (3e5, 3e6, 3e9)]
    ['under 1 MiB', '2.9 MiB', '2861 MiB']
    """
    size /= 2**20
    if size < 1:
        return "under 1 MiB"
    return f"{size:.1f} MiB" if size < 10 else f"{size:.0f} MiB"
