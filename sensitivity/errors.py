"""Errors that a user can act on.

    SensitivityError              a user's mistake or a limit: one sentence, exit code 1
    ├── TaskError                 the task file, its data or its metric is not as expected
    ├── CheckError                a check found that a scan would measure something else
    ├── ModelError                the model is not calibrated, or its quantizers cannot be used
    ├── NamesError                a name or pattern that matches nothing, or too much
    ├── RunDirError               a run directory lacks what a step needs, or holds another run
    │   └── JournalMismatch       the journal belongs to another model, data set or configuration
    ├── WriteError                a file could not be written
    ├── ExportError               the model cannot be exported as planned
    ├── OnnxFileError             an ONNX file that cannot be read or used
    ├── TfliteFileError           a .tflite file that cannot be read or converted to ONNX
    ├── RuntimeUnavailable        a requested runtime cannot load or run the file
    ├── LogError                  an experiment tracker failed to log the run
    ├── GuestError                something that another package adds, such as a planner, is broken
    └── MissingPackage            an optional package is not installed

Any other exception that escapes is a bug of ours and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from itertools import islice

from sensitivity.distribution import install_line


class SensitivityError(Exception):
    """Base class. The message is one sentence: what must hold, what was found, what to try."""


class TaskError(SensitivityError):
    """The task, or what its functions returned, is not as documented."""


class CheckError(SensitivityError):
    """A check before the scan found an error; `--force` continues anyway."""


class ModelError(SensitivityError):
    """The model cannot be measured as it is: not quantized, not calibrated, or not switchable."""


class NamesError(SensitivityError):
    """A name or pattern matches nothing, or too much."""


class RunDirError(SensitivityError):
    """The run directory lacks what a step needs, or holds another run."""


class JournalMismatch(RunDirError):
    """The journal belongs to another model, other data or other settings."""


class WriteError(SensitivityError):
    """A file cannot be written."""


class ExportError(SensitivityError):
    """The model cannot be exported, or a file does not compute what was simulated."""


class OnnxFileError(SensitivityError):
    """An ONNX file cannot be read, or has quantizers that cannot be switched."""


class TfliteFileError(SensitivityError):
    """A .tflite file cannot be read, or has operations that cannot be converted to ONNX."""


class RuntimeUnavailable(SensitivityError):
    """A runtime that was requested by name cannot be used here."""


class LogError(SensitivityError):
    """An experiment tracker failed to log the run. All files of the run have been written."""


class GuestError(SensitivityError):
    """Something that another package adds cannot be used."""


class MissingPackage(SensitivityError):
    """An optional package is not installed. The message names the extra that installs it."""

    def __init__(self, package: str, purpose: str, extra: str) -> None:
        super().__init__(
            f"Expected {package} to be installed for {purpose}; run: {install_line(extra)}."
        )


def listed(names: Collection[str], most: int = 5) -> str:
    """Return the first names, and how many more there are.

    >>> listed(["a", "b", "c", "d"], most=3)
    'a, b, c and 1 more'
    """
    shown = ", ".join(islice(names, most))
    more = len(names) - most
    return f"{shown} and {more} more" if more > 0 else shown


def begun(names: Collection[str], most: int = 3) -> str:
    """Return the first names, followed by dots if there are more.

    >>> begun(["a", "b", "c", "d"])
    'a, b, c, ...'
    """
    shown = list(islice(names, most))
    if len(names) > most:
        shown.append("...")
    return ", ".join(shown)


def unknown_name(what: str, got: str, known: Iterable[str]) -> NamesError:
    """Return the error for a name that matches nothing, with the closest names that exist."""
    names = sorted(known)
    return NamesError(
        f"Expected {what} to match exactly one of {len(names)} names, got {got!r}. "
        f"{_close_names(got, names)}"
    )


def unmatched(option: str, pattern: str, known: Iterable[str]) -> NamesError:
    """Return the error for a name or pattern that matches nothing, with the closest names that
    exist."""
    names = sorted(known)
    return NamesError(
        f"Expected {option} to match at least one name, got {pattern!r} (0 of {len(names)}). "
        f"{_close_names(pattern, names)}"
    )


KNOWN = 12
"""Number of names that a message lists if none is close."""


def _close_names(got: str, names: list[str]) -> str:
    close = difflib.get_close_matches(got, names, n=3, cutoff=0.4)
    if close:
        return f"Close names: {', '.join(close)}."
    return f"Known: {listed(names, most=KNOWN)}."
