"""Errors that a user can act on.

    SensitivityError              a user's mistake or a limit met: one sentence, exit code 1
    ├── TaskError                 the task file, its data or its metric
    ├── CheckError                a check found that a scan would measure something else
    ├── ModelError                the model is not calibrated, or its quantizers cannot be used
    ├── NamesError                a name or pattern that matches nothing
    ├── RunDirError               a run directory lacks or holds something else than is needed
    │   └── JournalMismatch       the journal is of another model, data set or configuration
    ├── WriteError                a file could not be written
    ├── ExportError               the model cannot be exported as it was planned
    ├── OnnxFileError             an ONNX file that cannot be read or used
    ├── TfliteFileError           a .tflite file that cannot be read, or written in ONNX
    ├── RuntimeUnavailable        a requested runtime cannot load or run the file
    ├── LogError                  a tracker of experiments did not take the run
    ├── GuestError                what another package adds, such as a planner, cannot be used
    └── MissingPackage            an optional package is not installed

Anything else that escapes is our bug and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from itertools import islice

from sensitivity.distribution import install_line


class SensitivityError(Exception):
    """What must hold, what came, what to try: one sentence."""


class TaskError(SensitivityError):
    """The task, or what its functions returned, is not what was promised."""


class CheckError(SensitivityError):
    """A check before the scan found an error; `--force` goes on all the same."""


class ModelError(SensitivityError):
    """The model cannot be measured as it is: not quantized, not calibrated, or not switchable."""


class NamesError(SensitivityError):
    """A name or pattern matches nothing, or too much."""


class RunDirError(SensitivityError):
    """The run directory lacks what a step needs, or holds another run."""


class JournalMismatch(RunDirError):
    """The journal is of another model, other data or other settings."""


class WriteError(SensitivityError):
    """A file cannot be written."""


class ExportError(SensitivityError):
    """The model cannot be exported, or a file does not compute what was simulated."""


class OnnxFileError(SensitivityError):
    """An ONNX file cannot be read, or holds what cannot be switched."""


class TfliteFileError(SensitivityError):
    """A .tflite file cannot be read, or holds what cannot be written in ONNX."""


class RuntimeUnavailable(SensitivityError):
    """A runtime that was asked for by name cannot be used here."""


class LogError(SensitivityError):
    """A tracker of experiments did not take the run; all else of it is there."""


class GuestError(SensitivityError):
    """Something that another package brings cannot be used."""


class MissingPackage(SensitivityError):
    """An optional package is not installed; the message says which extra brings it."""

    def __init__(self, package: str, purpose: str, extra: str) -> None:
        super().__init__(
            f"Expected {package} to be installed for {purpose}; run: {install_line(extra)}."
        )


def listed(names: Collection[str], most: int = 5) -> str:
    """The first of some names, and how many more there are.

    >>> listed(["a", "b", "c", "d"], most=3)
    'a, b, c and 1 more'
    """
    shown = ", ".join(islice(names, most))
    more = len(names) - most
    return f"{shown} and {more} more" if more > 0 else shown


def begun(names: Collection[str], most: int = 3) -> str:
    """The first of some names, and dots where there are more.

    >>> begun(["a", "b", "c", "d"])
    'a, b, c, ...'
    """
    shown = list(islice(names, most))
    if len(names) > most:
        shown.append("...")
    return ", ".join(shown)


def unknown_name(what: str, got: str, known: Iterable[str]) -> NamesError:
    """The error for a name that matches nothing, with the closest names that exist."""
    names = sorted(known)
    return NamesError(
        f"Expected {what} to match exactly one of {len(names)} names, got {got!r}. "
        f"{_close_names(got, names)}"
    )


def unmatched(option: str, pattern: str, known: Iterable[str]) -> NamesError:
    """The error for a name or pattern that matches nothing, with the closest names that exist."""
    names = sorted(known)
    return NamesError(
        f"Expected {option} to match at least one name, got {pattern!r} (0 of {len(names)}). "
        f"{_close_names(pattern, names)}"
    )


def _close_names(got: str, names: list[str]) -> str:
    close = difflib.get_close_matches(got, names, n=3, cutoff=0.4)
    if close:
        return f"Close names: {', '.join(close)}."
    return f"Known: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}."
