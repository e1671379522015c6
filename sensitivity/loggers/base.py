"""What an experiment tracker receives of a run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sensitivity.errors import MissingPackage


@dataclass(frozen=True)
class Entry:
    """A run to be logged.

    title: title of the run.
    settings: option -> value.
    tags: name -> other text, such as the verdict.
    metrics: name -> finite number.
    files: files to store with the run.
    folder: folder of the run, or of a named plan in it.
    """

    title: str
    settings: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    files: tuple[Path, ...]
    folder: Path


class Logger(Protocol):
    """An experiment tracker.

    Its constructor takes no arguments, has no side effects, and raises MissingPackage if the client
    is not installed.
    """

    name: str

    def log(self, entry: Entry) -> None:
        """Log the entry as a new run of the tracker, and end that run.

        The destination is set by the client's own environment variables. May raise whatever the
        client raises.
        """


def client(name: str, *modules: str) -> Any:
    """Return the first of these modules that can be imported.

    name: name of the logger, and of the extra that installs its client.
    Raises MissingPackage if none can be imported.
    """
    for module in modules:
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise MissingPackage(name, f"--log {name}", name)
