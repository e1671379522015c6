"""Settings as text: the command or the Python call that gives them, and the table of a report."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from sensitivity.config import IN_PYTHON, RunSettings, ScanSettings, TaskSettings, flag_of


def settings_as_text(settings: Any) -> dict[str, str]:
    """Return the settings as text for reports: name -> value, in the order of the fields, without
    those that are not set."""
    values = {
        item.name.replace("_", "-"): getattr(settings, item.name) for item in fields(settings)
    }
    return {
        name: " ".join(_words(value)) for name, value in values.items() if value not in (None, ())
    }


def _words(value: Any) -> tuple[str, ...]:
    """Return a setting as words of a command, one for each use of its option.

    >>> _words(("conv1", "conv2")), _words((48, 192)), _words(0.5)
    (('conv1', 'conv2'), ('48,192',), ('0.5',))
    """
    if not isinstance(value, tuple):
        return (str(value),)
    if all(isinstance(part, int) for part in value):  # height and width
        return (",".join(map(str, value)),)
    return value


def command_line(verb: str, settings: Any) -> str:
    """Return the command that gives these settings.

    >>> from sensitivity.config import PlanSettings
    >>> command_line("plan", PlanSettings(directory=Path("runs/a b"), max_drop="1pt"))
    "sensitivity plan 'runs/a b' --max-drop 1pt"
    """
    words = [
        str(getattr(settings, item.name))
        for item in fields(settings)
        if item.metadata.get("argument")
    ]
    return shlex.join(["sensitivity", verb, *words, *_options(settings, ("resume",))])


def python_call(verb: str, settings: Any) -> str:
    """Return the Python call that gives these settings, for a task made in a program and called
    `task` there.

    >>> from sensitivity.config import PlanSettings
    >>> settings = PlanSettings(directory=Path("runs/a"), max_drop="1pt", skip=("head.*",))
    >>> python_call("plan", settings)
    "sensitivity.plan('runs/a', task=task, max_drop='1pt', skip=('head.*',))"
    >>> python_call("scan", ScanSettings(task=IN_PYTHON, out=Path("runs/a")))
    "sensitivity.scan(task, out='runs/a')"
    """
    arguments = (
        [f"{str(settings.directory)!r}", "task=task"]
        if hasattr(settings, "directory")
        else ["task"]
    )
    return f"sensitivity.{verb}({', '.join([*arguments, *_keywords(settings, ('resume',))])})"


def starting_command(settings: ScanSettings | RunSettings) -> tuple[str, ...]:
    """Return the verb and options of the command that started a run.

    Its task, data and directory are left out, since the run directory holds them. For a task made
    in Python, return the name of the function and its keywords instead.

    >>> starting_command(ScanSettings(task="a.py", out=Path("b"), exact=True))
    ('scan', '--exact')
    >>> starting_command(ScanSettings(task=IN_PYTHON, out=Path("b"), exact=True))
    ('scan', 'exact=True')
    """
    verb = "run" if isinstance(settings, RunSettings) else "scan"
    words = _keywords if settings.task == IN_PYTHON else _options
    return (verb, *words(settings, [item.name for item in fields(TaskSettings)]))


def in_python(sentence: str, kinds: Iterable[type[Any]]) -> str:
    """Return a message with its options rewritten as keywords, for a caller in Python.

    kinds: the settings classes whose options are meant.

    >>> from sensitivity.config import BenchSettings
    >>> sentence = "Expected --rounds to be at least 1; add --resume to continue."
    >>> in_python(sentence, [BenchSettings, RunSettings])
    'Expected rounds= to be at least 1; add resume=True to continue.'
    """
    keywords = {
        flag_of(item.name): f"{item.name}={'True' if item.default is False else ''}"
        for kind in kinds
        for item in fields(kind)
    }
    return re.sub(
        r"--[a-z][a-z-]*", lambda match: keywords.get(match.group(), match.group()), sentence
    )


def _keywords(settings: Any, without: Collection[str]) -> Iterator[str]:
    """Yield the keywords that give these settings, except arguments and the fields in `without`."""
    for item in fields(settings):
        value = getattr(settings, item.name)
        if not (item.metadata.get("argument") or item.name in without or value == item.default):
            shown_value = str(value) if isinstance(value, Path) else value
            yield f"{item.name}={shown_value!r}"


def _options(settings: Any, without: Collection[str]) -> Iterator[str]:
    """Yield the words that give these settings, except arguments and the fields in `without`."""
    for item in fields(settings):
        value, flag = getattr(settings, item.name), flag_of(item.name)
        if item.metadata.get("argument") or item.name in without or value == item.default:
            continue
        if value is True:
            yield flag
            continue
        for word in _words(value):
            yield from (flag, word)
