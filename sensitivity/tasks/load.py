"""Loads a task from "path/to/task.py:function", or takes one made in Python, and checks it.

This is the only module that runs a user's file.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.util
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sensitivity.config import IN_PYTHON
from sensitivity.errors import SensitivityError, TaskError
from sensitivity.records import SPLITS
from sensitivity.tasks.base import EvaluateTask, Task
from sensitivity.tasks.batches import check_pair
from sensitivity.tasks.fingerprint import judges_digest

TaskLike = str | Task | EvaluateTask
"""A task as the user gives it: "path/to/task.py:function", or the object itself."""

DEFAULT_FUNCTION = "task"


@dataclass(frozen=True)
class Evaluator:
    """A user's own metric, loaded from a file.

    score: (outputs, targets) -> one number for each sample; higher is better.
    place: "file:function", with the absolute path of the file.
    code: the hex sha256 of the file's syntax tree.
    """

    score: Callable[[Any, Any], Any]
    place: str
    code: str

    def judging(self, task: Task) -> Task:
        """Return the task with this metric in place of its own: the mean of these scores."""
        return Task(task.model, task.data, self.score, metric=self.place.rpartition(":")[2])


NUMBERS = (int, float, np.integer, np.floating)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def load_task(user_task: TaskLike) -> Task | EvaluateTask:
    """Return the user's task, once it has passed all checks.

    The folder of the task file is importable while the file and the function run.

    user_task: the task itself, or "path/to/task.py:function", whose function returns it. Without
        ":function" it is the function `task`.
    Raises TaskError, with the user's own exception as its cause.
    """
    if not isinstance(user_task, str):
        return checked(user_task, "a Task or EvaluateTask of sensitivity, or the path of its file")
    file, name = split_reference(user_task)
    with _as_script(file.parent):
        module = _run_file(file)
        function = _function(module, name, file)
        try:
            task = function()
        except (Exception, SystemExit) as error:
            raise _user_error(f"{name}() in {file} to return a task", file, error) from error
    return checked(
        task, f"{name}() in {file} to return a Task or EvaluateTask of sensitivity.tasks.base"
    )


def checked(task: Any, what: str) -> Task | EvaluateTask:
    """Return the given task.

    what: words for the task in messages.

    Raises TaskError if it is not a task, or has a fault.
    """
    if isinstance(task, Task):
        check_task(task)
        return task
    if isinstance(task, EvaluateTask):
        check_evaluate_task(task)
        return task
    raise TaskError(f"Expected {what}, got {_kind(task)}; see docs/tasks.md.")


def load_evaluator(reference: str, code: str | None = None) -> Evaluator:
    """Load a user's own metric.

    The file is run as it is, and its folder is importable meanwhile, as for a task.

    reference: "path/to/my_eval.py:function". Without ":function" it is the function `score`.
    code: `Evaluator.code` of the time when the run began. None for a new run.
    Raises TaskError if there is no such function, or if the file was changed since the run began.
    """
    file, name = split_reference(reference, "score")
    with _as_script(file.parent):
        function = _function(_run_file(file), name, file)
    evaluator = Evaluator(function, f"{file}:{name}", _sha(_code(file.read_bytes())))
    if code not in (None, evaluator.code):
        raise TaskError(
            f"Expected {file} to be what judged this run when it began, got a file that was "
            "changed since; put it back, or begin a run with another --out."
        )
    return evaluator


def task_digest(user_task: TaskLike) -> dict[str, str]:
    """Return the digests by which a task is recognised.

    "text" is the hex sha256 of its file's source. "code" is that of the syntax tree, without
    comments, docstrings and layout. "function" is the name of the function. What the file imports
    or reads does not count. A task made in Python has no file; its "text" and "code" are those of
    the functions that judge its outputs.
    """
    if not isinstance(user_task, str):
        digest = judges_digest(user_task)
        return {"text": digest, "code": digest, "function": IN_PYTHON}
    file, function = split_reference(user_task)
    source = file.read_bytes()
    return {"text": _sha(source), "code": _sha(_code(source)), "function": function}


def same_task(one: Any, other: Any) -> bool:
    """Return whether two digests are of tasks that do the same.

    one, other: digests of `task_digest`, or the digest of the text alone, as in old journals.
    """
    if isinstance(one, str) or isinstance(other, str):
        return bool(_text_of(one) == _text_of(other))
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return False
    if one.get("function") != other.get("function"):
        return False
    same_text = one.get("text") == other.get("text")
    same_code = one.get("code") == other.get("code")
    return bool(same_text or same_code)


def _text_of(digest: Any) -> Any:
    """Return the digest of a task's text."""
    if isinstance(digest, Mapping):
        return digest["text"]
    return digest


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _code(source: bytes) -> bytes:
    """Return the syntax tree of a source as text, without docstrings, or the source itself if it is
    not valid Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return source
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree, annotate_fields=False).encode()


def split_reference(reference: str, default: str = DEFAULT_FUNCTION) -> tuple[Path, str]:
    """Return the absolute path of the file, and the name of the function.

    default: the name of the function if none is given.
    Raises TaskError if there is no such Python file.
    """
    path, colon, name = reference.rpartition(":")
    has_name = colon and name.isidentifier()
    if not has_name:
        path, name = reference, default
    file = Path(path).expanduser()
    if not file.is_file():
        got = "a folder" if file.is_dir() else f"nothing there (from {Path.cwd()})"
        raise TaskError(
            f"Expected a Python file at {path}, got {got}; give it as path/to/task.py:function."
        )
    if file.suffix != ".py":
        raise TaskError(
            f"Expected a Python file ending in .py, got {path}; give it as "
            "path/to/task.py:function."
        )
    return file.resolve(), name


def check_task(task: Task) -> None:
    """Raise a TaskError that says what is wrong with a task, before anything is measured."""
    _check_model(task.model)
    if not isinstance(task.data, Mapping):
        raise TaskError(
            f"Expected task.data to map {', '.join(SPLITS)} to batches, got {_kind(task.data)}; "
            'pass {"rank": ..., "confirm": ..., "holdout": ...}.'
        )
    missing = [split for split in SPLITS if split not in task.data]
    if missing:
        known = ", ".join(map(str, task.data))
        raise TaskError(
            f"Expected task.data to have the splits {', '.join(SPLITS)}, got no "
            f"{' and no '.join(missing)} (only {known or 'an empty mapping'}); add batches of "
            "other samples for it."
        )
    for split in (*SPLITS, *({"unlabeled"} & task.data.keys())):
        _check_split(split, task.data[split])
    _check_callable("score", task.score)
    _check_callable("aggregate", task.aggregate)
    _check_optional(task, "finish", "soft", "loss")
    _check_scale(task)


def _check_scale(task: Task | EvaluateTask) -> None:
    scale = task.full_scale
    if not isinstance(scale, NUMBERS) or not 0 < scale < math.inf:
        raise TaskError(
            "Expected task.full_scale to be the metric's largest value, a number above 0, got "
            f"{scale!r}; it is 1.0 for a fraction and 100.0 for per cent."
        )
    if not isinstance(task.metric, str):
        raise TaskError(
            f"Expected task.metric to be the metric's name, got {_kind(task.metric)}; give it as "
            "text."
        )


def check_evaluate_task(task: EvaluateTask) -> None:
    """Raise a TaskError that says what is wrong with a task, before anything is measured."""
    _check_model(task.model)
    _check_scale(task)
    _check_callable("evaluate", task.evaluate)
    _check_optional(task, "confirm", "holdout")


def _check_split(split: str, batches: Any) -> None:
    def fail(got: str, fix: str) -> TaskError:
        return TaskError(
            f"Expected split {split!r} to be batches of (inputs, targets) with a len(), which give "
            f"the same samples in the same order each time, got {got}; {fix}."
        )

    if not hasattr(batches, "__iter__"):
        raise fail(_kind(batches), "pass a list of batches, or a DataLoader")
    try:
        count = len(batches)
    except TypeError as error:
        raise fail(
            f"{_kind(batches)} without a len()", "pass a list of batches, or a DataLoader"
        ) from error
    except Exception as error:  # Raised by the user's own class.
        raise fail(
            f"{type(error).__name__} from its len(): {error}", "correct its __len__"
        ) from error
    if count == 0:
        raise TaskError(
            f"Expected split {split!r} to hold at least one batch, got none; check the data's path "
            "and size."
        )
    # The class is compared by its name, so that torch need not be imported.
    if type(getattr(batches, "sampler", None)).__name__ == "RandomSampler":
        raise fail("a DataLoader that shuffles", "pass shuffle=False")
    _check_first(split, batches)


def _check_first(split: str, batches: Any) -> None:
    """Raise TaskError if the first batch cannot be read, or is not a pair."""
    try:
        first = next(iter(batches))
    except Exception as error:  # Raised by the user's own data.
        got = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise TaskError(
            f"Expected split {split!r} to give its first batch, got {got}; check its data."
        ) from error
    check_pair(first, split)


def _check_model(model: Any) -> None:
    if model is None:
        raise TaskError(
            "Expected a calibrated model in the task, got None; return the model that was "
            "quantized."
        )
    training = _training_part(model)
    if training:
        raise TaskError(
            f"Expected the model in eval mode, got {training} in training mode; call model.eval() "
            "before returning it."
        )


def _training_part(model: Any) -> str | None:
    """Return the model, or its first layer, that is in training mode and depends on it; None if
    none does."""
    # The mode of a torch.export graph is built in: its flag says nothing, and its eval() raises.
    classes = {base.__name__ for base in type(model).__mro__}
    if getattr(model, "training", False) and "GraphModule" not in classes:
        return "the model"
    if not hasattr(model, "named_modules"):
        return None
    for name, layer in model.named_modules():
        if layer.training and _depends_on_mode(layer):
            return str(name)
    return None


def _depends_on_mode(layer: Any) -> bool:
    """Return whether a layer gives other values in training mode.

    The mode of other layers does not matter: quantizers that are inserted after `model.eval()` are
    in training mode.
    """
    kind = type(layer).__name__
    return "BatchNorm" in kind or "Dropout" in kind


def _check_optional(task: Task | EvaluateTask, *names: str) -> None:
    """Raise TaskError if one of these attributes is neither None nor a function."""
    for name in names:
        value = getattr(task, name)
        if value is not None:
            _check_callable(name, value)


def _check_callable(name: str, value: Any) -> None:
    if not callable(value):
        raise TaskError(
            f"Expected task.{name} to be a function, got {_kind(value)}; see docs/tasks.md."
        )


@contextmanager
def _as_script(folder: Path) -> Iterator[None]:
    """Make modules beside the task file importable inside the `with`, as if the file were run as a
    script. What the file prints goes to stderr, since stdout is for results."""
    sys.path.insert(0, str(folder))
    try:
        with redirect_stdout(sys.stderr):  # toolkits print while they quantize
            yield
    finally:
        # Only this folder is removed: packages that the file imports may add folders of their own,
        # which they need later.
        with suppress(ValueError):
            sys.path.remove(str(folder))


def _run_file(file: Path) -> ModuleType:
    # The module gets a name of its own: a user's json.py must not become `json` for other modules.
    name = f"sensitivity_task_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Dataclasses and pickle look their module up here.
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _user_error(f"{file} to be imported", file, error) from error
    return module


def _function(module: ModuleType, name: str, file: Path) -> Any:
    function = getattr(module, name, None)
    if callable(function):
        return function
    known = []
    for key, value in vars(module).items():
        is_own = getattr(value, "__module__", "") == module.__name__
        if is_own and callable(value):
            known.append(key)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:5]
    hint = f"Close names: {', '.join(close)}." if close else "The file defines no function."
    raise TaskError(f"Expected {file} to define a function {name}(), got none of that name. {hint}")


def _user_error(what: str, file: Path, error: BaseException) -> SensitivityError:
    """Return the error for an exception in the user's file: one sentence, with the last line of
    that file that the exception came through."""
    if isinstance(error, SensitivityError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    last_line = {frame.filename: frame.lineno for frame in frames}
    where = ""
    if str(file) in last_line:
        where = f" (line {last_line[str(file)]})"
    message = " ".join(str(error).split())[:300]
    missing_file = getattr(error, "filename", None) or "/"
    is_relative = isinstance(error, FileNotFoundError) and not os.path.isabs(missing_file)
    if is_relative:
        message += (
            f"; paths are taken from the current folder, {Path.cwd()}: start from "
            "Path(__file__).parent"
        )
    return TaskError(f"Expected {what}, got {type(error).__name__}: {message}{where}.")


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    return f"a {type(value).__name__}"
