"""The verbs as functions.

    import sensitivity as sv

    run = sv.run(task, out="runs/a", max_drop="1pt")

A task is a `Task` or `EvaluateTask` in memory, or the path of its file. Settings are keywords: the
fields of the verb's dataclass in `sensitivity.config`, which are also the options of the command
line. Mistakes raise `SensitivityError`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sensitivity import api
from sensitivity.commands import in_python
from sensitivity.config import (
    IN_PYTHON,
    BenchSettings,
    CheckSettings,
    CompareSettings,
    ExportSettings,
    PlanSettings,
    ReportSettings,
    RunSettings,
    ScanSettings,
)
from sensitivity.errors import SensitivityError, unknown_name
from sensitivity.measure.progress import Progress, silent
from sensitivity.registry import check_name
from sensitivity.results import (
    Benched,
    Checked,
    Compared,
    Exported,
    Planned,
    Result,
    Run,
    Scanned,
    benched,
    exported,
    place_of,
    planned,
    scanned,
    whole_run,
)
from sensitivity.run_dir import RunDir
from sensitivity.steps.compare import check_several, compare_plans
from sensitivity.tasks.base import EvaluateTask, Task
from sensitivity.tasks.load import TaskLike, checked

Returned = TypeVar("Returned")
Verb = Callable[..., Returned]

TASK = "a Task or EvaluateTask of sensitivity, or the path of its file"

SHOWN_ONLY = {"frontier", "format", "dry_run"}
"""Settings of what a command prints; a function returns everything."""

NUMBERS = {int: Integral, float: Real}
"""Type of a setting -> abstract type that its values are checked against, so that numbers of any
library are accepted."""

GIVEN = {"task", "out", "directory", "directories"}
"""Settings that the functions take as explicit parameters."""


SETTINGS: dict[str, type[Any]] = {
    "run": RunSettings,
    "scan": ScanSettings,
    "check": CheckSettings,
    "plan": PlanSettings,
    "export": ExportSettings,
    "bench": BenchSettings,
    "report": ReportSettings,
    "compare": CompareSettings,
}


def settings_of(kind: type[Any]) -> list[Field[Any]]:
    """Return the settings that the verb's function takes as keywords, in the order of the
    dataclass."""
    return [item for item in fields(kind) if item.name not in SHOWN_ONLY | GIVEN]


def _verb(function: Verb[Returned]) -> Verb[Returned]:
    """Add the verb's settings as keywords to the signature of its function, and write its errors in
    terms of keywords."""

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Returned:
        try:
            return function(*args, **keywords)
        except SensitivityError as error:
            error.args = (in_python(str(error), SETTINGS.values()),)
            raise

    signature = inspect.signature(function)
    own = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    added = [
        inspect.Parameter(
            item.name, inspect.Parameter.KEYWORD_ONLY, default=item.default, annotation=item.type
        )
        for item in settings_of(SETTINGS[function.__name__])
    ]
    call.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    return call


@_verb
def run(
    task: Task | EvaluateTask | str | Path,
    *,
    out: str | Path | None = None,
    progress: Progress = silent,
    **settings: Any,
) -> Run:
    """Scan, plan, export, bench and report in one call. The model is left as it was.

    task: a task in memory, "my_task.py:task", or a Q/DQ ONNX file with `data=`.
    out: the run directory; runs/<name of the file> by default. Required for a task in memory.
    progress: is told of each step, see `sensitivity.measure.progress`.
    """
    chosen, user_task = _of_task("run", task, out, settings)
    api.run(chosen, progress, user_task)
    return whole_run(api.out_of(chosen), user_task)


@_verb
def scan(
    task: Task | EvaluateTask | str | Path,
    *,
    out: str | Path | None = None,
    progress: Progress = silent,
    **settings: Any,
) -> Scanned:
    """Rank the layers by the accuracy that quantizing each one costs.

    task, out, progress: as for `run`.
    """
    chosen, user_task = _of_task("scan", task, out, settings)
    api.scan(chosen, progress, user_task)
    return scanned(api.out_of(chosen), user_task)


@_verb
def check(
    task: Task | EvaluateTask | str | Path, *, progress: Progress = silent, **settings: Any
) -> Checked:
    """Check on one batch the assumptions that a scan rests on.

    task: as for `run`; a Q/DQ ONNX file also without `data=`.
    progress: as for `run`.
    """
    chosen, user_task = _of_task("check", task, None, settings)
    return Checked(api.check(chosen, progress, user_task))


@_verb
def plan(
    run: Result | str | Path,
    *,
    task: Task | EvaluateTask | str | Path | None = None,
    progress: Progress = silent,
    **settings: Any,
) -> Planned:
    """Choose the layers to leave unquantized so that a target holds.

    run: a run directory, or the result of an earlier function.
    task: the run's task; needed if it was made in Python and `run` is only a directory.
    progress: as for `run`.
    """
    chosen, user_task = _of_run("plan", run, task, settings)
    api.plan(chosen, progress, user_task)
    return planned(chosen.directory, user_task, chosen.name)


@_verb
def export(
    run: Result | str | Path,
    *,
    task: Task | EvaluateTask | str | Path | None = None,
    progress: Progress = silent,
    **settings: Any,
) -> Exported:
    """Write and verify the float, INT8 and partial ONNX files of the plan.

    run, task, progress: as for `plan`.
    """
    chosen, user_task = _of_run("export", run, task, settings)
    api.export(chosen, progress, user_task)
    return exported(chosen.directory, user_task, chosen.name)


@_verb
def bench(
    run: Result | str | Path,
    *,
    task: Task | EvaluateTask | str | Path | None = None,
    progress: Progress = silent,
    **settings: Any,
) -> Benched:
    """Measure the latency of the exported files, interleaved.

    run, progress: as for `plan`.
    task: as for `plan`, but only needed for `accuracy=True`.
    """
    chosen, user_task = _of_run("bench", run, task, settings)
    api.bench(chosen, progress, user_task)
    return benched(chosen.directory, user_task, chosen.name)


@_verb
def report(run: Result | str | Path, **settings: Any) -> Path:
    """Write report.html, the CSV files and the figures, and return the path of report.html.

    run: as for `plan`.
    """
    chosen, _ = _of_run("report", run, None, settings)
    return api.report(chosen)


@_verb
def compare(*runs: Result | str | Path, out: str | Path | None = None, **settings: Any) -> Compared:
    """Show runs, or the plans of one run, side by side.

    runs: run directories, report folders or results of earlier functions. A result stands for its
        own plan; one directory alone stands for all its plans.
    out: folder for compare.html, compare.csv and compare_layers.csv; None writes nothing.
    """
    own: dict[str, Any] = {"directories": tuple(place_of(run, None)[0] for run in runs)}
    if out is not None:
        own["out"] = _fitting("sensitivity.compare", "out", Path | None, out)
    chosen = _settings("compare", own, settings)
    if chosen.name or not any(isinstance(run, Result) for run in runs):
        return Compared(api.compare(chosen))
    places = tuple(
        RunDir(place, run.name if isinstance(run, Result) else None)
        for run, place in zip(runs, chosen.directories, strict=True)
    )
    check_several(places)
    return Compared(compare_plans(places, chosen.out))


def _of_task(
    verb: str, task: Any, out: str | Path | None, values: dict[str, Any]
) -> tuple[Any, TaskLike | None]:
    """Return the settings of a verb that starts from a task, and the task if it is in memory."""
    user_task = None if isinstance(task, (str, Path)) else _object(task)
    own = {"task": str(task) if user_task is None else IN_PYTHON}
    if out is not None:
        own["out"] = _fitting(f"sensitivity.{verb}", "out", Path | None, out)
    return _settings(verb, own, values), user_task


def _object(task: Any) -> Task | EvaluateTask:
    """Return a task in memory. Its contents are checked when it is opened.

    Raises TaskError for anything else.
    """
    return task if isinstance(task, (Task, EvaluateTask)) else checked(task, TASK)


def _of_run(verb: str, run: Any, task: Any, values: dict[str, Any]) -> tuple[Any, TaskLike | None]:
    """Return the settings of a verb that continues a run, and the task if there is one."""
    directory, user_task = place_of(run, task)
    if user_task is not None:
        user_task = str(user_task) if isinstance(user_task, (str, Path)) else _object(user_task)
    own: dict[str, Any] = {"directory": directory}
    if isinstance(run, Result) and verb != "plan":  # `plan` makes a plan with a name of its own
        own["name"] = run.name
    return _settings(verb, own, values), user_task


def _settings(verb: str, own: dict[str, Any], values: dict[str, Any]) -> Any:
    """Return the verb's settings.

    Raises NamesError for an unknown name and SensitivityError for a wrong value.
    """
    kind = SETTINGS[verb]
    known = {item.name: item for item in settings_of(kind)}
    hints = get_type_hints(kind)
    where = f"sensitivity.{verb}"
    for name, value in values.items():
        if name not in known:
            raise unknown_name(f"a setting of {where}", name, known)
        own[name] = _fitting(where, name, hints[name], value)
        family = known[name].metadata.get("family")
        if family and value is not None:
            check_name(f"{name}= of {where}", family, value, known[name].metadata["also"])
    return kind(**own)


def _fitting(where: str, name: str, hint: Any, value: Any) -> Any:
    """Return the value converted to the setting's type. Raises SensitivityError if it has
    another."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for option in options:
        converted = _as(option, value)
        if converted is not NotImplemented:
            return converted
    wanted = " or ".join(_words(option) for option in options)
    raise SensitivityError(f"Expected {name}= of {where} to be {wanted}, got {value!r}.")


def _as(option: Any, value: Any) -> Any:
    """Return the value converted to one type, or NotImplemented if it has another."""
    if get_origin(option) is Literal:
        return value if value in get_args(option) else NotImplemented
    if get_origin(option) is tuple:
        return _names(value)
    if option is Path:
        return Path(value).expanduser() if isinstance(value, (str, Path)) else NotImplemented
    kind = NUMBERS.get(option, option)
    if option is not bool and isinstance(value, bool):  # bool is a subclass of int
        return NotImplemented
    return option(value) if isinstance(value, kind) else NotImplemented


def _names(value: Any) -> Any:
    """Return several names as a tuple; a single one may be given as text."""
    names = [value] if isinstance(value, str) else value
    is_list = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    return tuple(names) if is_list else NotImplemented


def _words(option: Any) -> str:
    """Return what messages call a type."""
    if get_origin(option) is Literal:
        return " or ".join(map(repr, get_args(option)))
    if get_origin(option) is tuple:
        return "a name or a list of names"
    words = {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        Path: "a path",
    }
    return words.get(option, "None")
