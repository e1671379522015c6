"""The verdict of a run in the formats that CI services show, one file for each."""

from __future__ import annotations

import importlib

from sensitivity.reporting.data import ReportData


def summary_of(data: ReportData, form: str) -> str:
    """Return the whole text.

    form: "markdown", "junit" or "sarif"; nothing is imported for the other two.
    """
    text: str = importlib.import_module(f"{__name__}.{form}").render(data)
    return text
