"""A run directory: what each step leaves for the next, and for the reader."""

from __future__ import annotations

import os
import re
import shlex
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from zipfile import BadZipFile

import msgspec

from sensitivity.config import IN_PYTHON
from sensitivity.errors import NamesError, RunDirError, unknown_name
from sensitivity.files import is_as_written, with_checksum, write_whole
from sensitivity.records import Mode, Plan, Quantizer, Unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Record = TypeVar("Record")
Exported = Literal["float", "fp16", "int8", "partial"]
LOWERED = {"tensorrt_rtx": "tensorrt", "trtexec": "tensorrt"}
"""Runtimes that take the files of another."""

MADE_BY = {"export.json": "export", "bench.json": "bench"}
"""File -> the verb that makes it from the directory; those of a scan apart, all others are made by
`plan`."""

EXPORTED: tuple[Exported, ...] = ("float", "fp16", "int8", "partial")

OF_THE_RUN = ("run.json", "scan.json", "graph.json", "distributions.json")
"""Records that all plans of a run share."""

PLANS = "plans"
"""The folder of named plans: each has a file NAME.json there, and a folder NAME for its files."""

PLAN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}")


@dataclass(frozen=True)
class RunInfo:
    """run.json: what a run is of and how to repeat it.

    task: reference of the task; relative to the run directory where the file lies in it, absolute
    otherwise; `IN_PYTHON` for one that was made in a program. near: the way from the run directory
    to the task's file, for a project that was moved as a whole.
    began: verb and options of the command that began the run, without its task and directory; for a
    task made in Python the function and its keywords.
    commands: verb -> the command that last ran it; "verb NAME" for a named plan. simulator: its
    name and the reason it was chosen; None until used.
    scales: quantizers that share one range, in the scan and in what is exported.
    residuals: whether quantizers for skip connections were added to the model.
    seed: of all that is drawn at random.
    samples: forwarded in all, over all verbs and resumes. seconds: as commands -> wall time of its
    last run.
    """

    task: str
    mode: Mode
    metric: str
    full_scale: float
    source: str
    quantizers: tuple[Quantizer, ...]
    units: tuple[Unit, ...]
    splits: dict[str, int]
    simulator: dict[str, str] | None = None
    samples: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    scales: tuple[tuple[str, ...], ...] = ()
    residuals: bool = False
    near: str = ""
    began: tuple[str, ...] = ()
    seed: int = 0

    @property
    def in_python(self) -> bool:
        """Whether the task was made in a program and is in no file."""
        return self.task == IN_PYTHON


class RunDir:
    """Paths and JSON records of one run directory, as one of its plans sees it.

    name: of the plan; None for that in plan.json. folder: where the files of the plan are: the run
    directory itself, or plans/NAME. Raises NamesError for what cannot be the name of a plan.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        if name is not None and not PLAN_NAME.fullmatch(name):
            raise NamesError(
                "Expected --name to be up to 80 letters, digits and . _ + -, a letter or digit "
                f"first, got {name!r}; give a name such as fast."
            )
        self.path = path
        self.name = name
        self.folder = path if name is None else path / PLANS / name
        self.journal = path / "journal.jsonl"

    def file(self, name: str) -> Path:
        """Where a file of this name lies."""
        if self.name is not None and name == "plan.json":
            return self.path / PLANS / f"{self.name}.json"
        return self.path / name if name in OF_THE_RUN else self.folder / name

    def plan_names(self) -> tuple[str, ...]:
        """The named plans of the run, in the order of the alphabet."""
        names = (file.stem for file in (self.path / PLANS).glob("*.json"))
        return tuple(sorted(filter(PLAN_NAME.fullmatch, names)))

    def plans(self) -> tuple[RunDir, ...]:
        """The run directory as each of its plans sees it: this one first, then the others."""
        names = (self.name, None, *self.plan_names())
        return tuple(RunDir(self.path, name) for name in dict.fromkeys(names))

    def step(self, verb: str) -> str:
        """The key of a verb in `RunInfo.commands` and `RunInfo.seconds`."""
        return verb if self.name is None else f"{verb} {self.name}"

    def info(self) -> RunInfo:
        return self.read("run.json", RunInfo)

    def plan(self) -> Plan:
        return self.read("plan.json", Plan)

    def place_of(self, file: Path, function: str) -> tuple[str, str]:
        """Where a task is, for `RunInfo`: its `task` and `near`. file: absolute."""
        own = self.path.resolve()
        if file.is_relative_to(own):
            return f"{file.relative_to(own)}:{function}", ""
        return f"{file}:{function}", os.path.relpath(file, own)

    def reference(self) -> str:
        """The task of this run, from any folder and wherever the directory is now. Raises
        RunDirError where it is gone."""
        info = self.info()
        if info.in_python:
            raise RunDirError(
                f"Expected the task of the run {self.path}, which was made in Python and is in no "
                "file, got none; give it to the function, as in "
                f"sensitivity.plan({str(self.path)!r}, task=task)."
            )
        path, _, function = info.task.rpartition(":")
        if not path:
            path, function = info.task, "task"
        # A run of an older version names its task as it was given, from a folder that nobody wrote
        # down.
        places = (
            self.path / path,
            Path(path),
            self.path / (info.near or path),
            self.path / Path(path).name,
        )
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise RunDirError(
                f"Expected the task file of the run {self.path} at {path}, got nothing there; put "
                "it back, or put a "
                f"copy of it into {self.path}."
            )
        return f"{found}:{function}"

    def go_on(self) -> str:
        """What goes on with the scan or run of this directory: a command with TASK where nothing is
        known of it, or a call for a task made in Python."""
        words, task = ["scan"], "TASK"
        if (self.path / "run.json").exists():
            info = self.info()
            if info.in_python:
                given = ["task", f"out={str(self.path)!r}", "resume=True", *info.began[1:]]
                return f"sensitivity.{info.began[0]}({', '.join(given)})"
            words, task = list(info.began) or words, self.reference()
        return shlex.join(
            ["sensitivity", words[0], task, *words[1:], "--out", str(self.path), "--resume"]
        )

    def unfinished(self) -> str | None:
        """What to tell of a scan or run that has not come to its end; None where it has."""
        info = self.info()
        verb = info.began[0] if info.began else ""
        steps = ("scan", "plan", "export", "bench") if verb == "run" else ("scan",)
        missing = [step for step in steps if not (self.path / f"{step}.json").exists()]
        if not verb or verb in info.commands or not missing:
            return None
        return (
            f"This {verb} has not come to its end: no {', no '.join(missing)}. Go on with: "
            f"{self.go_on()}"
        )

    def canonical(self) -> dict[Exported, Path]:
        """The canonical files that are there, by variant."""
        files = {variant: self.folder / f"model.{variant}.onnx" for variant in EXPORTED}
        return {variant: file for variant, file in files.items() if file.exists()}

    def models(self, runtime: str | None) -> dict[Exported, Path]:
        """The exported files by variant, those lowered for `runtime` where there are any; None for
        canonical ones.

        Raises RunDirError where the float one is missing.
        """
        files = self.canonical()
        if runtime is not None:
            name = LOWERED.get(runtime, runtime)
            lowered = {
                variant: self.folder / f"model.{variant}.{name}.onnx" for variant in EXPORTED
            }
            files |= {variant: file for variant, file in lowered.items() if file.exists()}
        if "float" not in files:
            raise RunDirError(
                f"Expected {self.folder / 'model.float.onnx'} to exist, got nothing there; "
                f"make it with: {self.makes('export.json')}"
            )
        return files

    def read(self, name: str, kind: type[Record]) -> Record:
        """A record from its file. Raises RunDirError that says how to make it, and NamesError for
        a plan whose name is of none."""
        file = self.file(name)
        try:
            content = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            if self.path.is_file():
                raise RunDirError(
                    f"Expected {self.path} to be a run directory, got a file; give its folder."
                ) from None
            raise self._missing(name) from None
        except OSError as error:
            raise RunDirError(
                f"Expected {file} to be a readable file, got {error.strerror or error}; move it "
                "away."
            ) from error
        try:
            record = msgspec.json.decode(content, type=kind)
        except ValueError as error:
            raise self._damaged(name, str(error)) from error
        if not is_as_written(content):
            raise self._damaged(
                name, 'another checksum; if you changed it on purpose, take its line "checksum" out'
            )
        return record

    def read_if_there(self, name: str, kind: type[Record]) -> Record | None:
        """A record from its file; None where that step has not been done."""
        return self.read(name, kind) if self.file(name).exists() else None

    def read_values(self, name: str) -> NDArray[np.float64]:
        """The table in an .npz. Raises RunDirError where it is damaged."""
        import numpy as np

        try:
            with np.load(self.file(name), allow_pickle=False) as stored:
                table: NDArray[np.float64] = stored["values"]
        except (
            OSError,
            ValueError,
            KeyError,
            EOFError,
            zlib.error,
            BadZipFile,
            NotImplementedError,
        ) as error:
            raise self._damaged(name, "no whole archive of numbers") from error
        return table

    def write(self, name: str, record: Any) -> None:
        """A record to its file, whole or not at all, with a checksum."""
        write_whole(
            self.file(name),
            with_checksum(msgspec.json.format(msgspec.json.encode(record), indent=2)),
        )

    def makes(self, name: str) -> str:
        """What makes a file of this directory: a command, or a call for a task made in Python."""
        if name in OF_THE_RUN:
            return self.go_on()
        verb = MADE_BY.get(name, "plan")
        if (self.path / "run.json").exists() and self.info().in_python:
            named = "" if self.name is None else f", name={self.name!r}"
            return f"sensitivity.{verb}({str(self.path)!r}, task=task{named})"
        named_words = [] if self.name is None else ["--name", self.name]
        return shlex.join(["sensitivity", verb, str(self.path), *named_words])

    def _missing(self, name: str) -> RunDirError | NamesError:
        names = self.plan_names()
        if name == "plan.json" and self.name is not None and names:
            return unknown_name(f"--name of a plan in {self.path}", self.name, names)
        return RunDirError(
            f"Expected {self.file(name)} to exist, got nothing there; make it with: "
            f"{self.makes(name)}"
        )

    def _damaged(self, name: str, got: str) -> RunDirError:
        file = self.file(name)
        makes = "sensitivity scan TASK --resume --out" if name == "run.json" else self.makes(name)
        if name == "run.json":
            makes = f"{makes} {shlex.quote(str(self.path))}"
        return RunDirError(
            f"Expected {file} to be as it was written, got {got}; make it again with: rm "
            f"{shlex.quote(str(file))}; {makes}"
        )
