"""What a tracker of experiments is told of a run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sensitivity.errors import MissingPackage


@dataclass(frozen=True)
class Entry:
    """title: of the run. settings: option -> value. tags: what else is text, such as the verdict.
    metrics: name -> finite number. files: to keep with it. folder: of the run, or of a named plan
    in it."""

    title: str
    settings: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    files: tuple[Path, ...]
    folder: Path


class Logger(Protocol):
    """A tracker. Its constructor takes no arguments, changes nothing, and raises MissingPackage
    where its client is not installed."""

    name: str

    def log(self, entry: Entry) -> None:
        """Make a run of its own of the entry, and end it. Where it goes is set as its client says,
        by variables of the environment. May raise whatever the client raises."""


def client(name: str, *modules: str) -> Any:
    """The first of these modules that can be imported. name: of the logger, and of the extra that
    installs its client. Raises MissingPackage where there is none."""
    for module in modules:
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise MissingPackage(name, f"--log {name}", name)
