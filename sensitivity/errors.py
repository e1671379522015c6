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
    ├── RuntimeUnavailable        a requested runtime cannot load or run the file
    ├── GuestError                what another package adds, such as a planner, cannot be used
    └── MissingPackage            an optional package is not installed

Anything else that escapes is our bug and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from sensitivity.distribution import install_line


class SensitivityError(Exception):
    """What must hold, what came, what to try: one sentence."""


class TaskError(SensitivityError): ...


class CheckError(SensitivityError): ...


class ModelError(SensitivityError): ...


class NamesError(SensitivityError): ...


class RunDirError(SensitivityError): ...


class JournalMismatch(RunDirError): ...


class WriteError(SensitivityError): ...


class ExportError(SensitivityError): ...


class OnnxFileError(SensitivityError): ...


class RuntimeUnavailable(SensitivityError): ...


class GuestError(SensitivityError): ...


class MissingPackage(SensitivityError):
    def __init__(self, package: str, purpose: str, extra: str) -> None:
        super().__init__(
            f"Expected {package} to be installed for {purpose}; run: {install_line(extra)}."
        )


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
