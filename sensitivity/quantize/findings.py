"""Describes what `run` and `scan` do with a float file, for `sensitivity check`."""

from __future__ import annotations

from pathlib import Path

from sensitivity.config import TaskChoices
from sensitivity.quantize.file import FILE, METHOD, samples_of, sized_file, target_of
from sensitivity.quantize.prepare import FIRST_OPSET, is_float
from sensitivity.quantize.rules import RULES
from sensitivity.records import Finding


def float_findings(settings: TaskChoices) -> tuple[Finding, ...]:
    """Return a note on what `run` and `scan` do with a float file first; nothing for a quantized
    file.

    Raises OnnxFileError for a file that cannot be read or run.
    """
    path = Path(settings.task)
    if not is_float(path):
        return ()
    opset = sized_file(settings).opset
    lifted = f", lifted to opset {FIRST_OPSET}" if opset < FIRST_OPSET else ""
    target = target_of(settings)
    source = settings.calib or "--data that are in no split"
    method, samples = settings.calib_method or METHOD, samples_of(settings)
    message = (
        f"{path.name} is a float file of opset {opset}: run and scan quantize it first{lifted}, by "
        f"the rules of {target} ({RULES[target].in_words}), with ranges by {method} over at most "
        f"{samples} samples of {source}; the result is {FILE} in the run directory."
    )
    return (Finding("float-file", "note", path.name, message, ""),)
