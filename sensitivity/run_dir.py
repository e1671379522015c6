"""A run directory: the files that each step leaves for the next one and for the reader."""

from __future__ import annotations

import os
import re
import shlex
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from zipfile import BadZipFile

import msgspec

from sensitivity.config import IN_PYTHON
from sensitivity.errors import NamesError, RunDirError, unknown_name
from sensitivity.files import is_as_written, with_checksum, write_whole
from sensitivity.records import BenchResult, Mode, Plan, Quantizer, Unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Record = TypeVar("Record")
Exported = Literal["float", "fp16", "int8", "partial"]
LOWERED = {"tensorrt_rtx": "tensorrt", "trtexec": "tensorrt"}
"""Runtime -> the runtime whose lowered files it also takes."""

MADE_BY = {"export.json": "export", "bench.json": "bench"}
"""File -> the verb that writes it. Files of a scan are not listed; all others are written by
`plan`."""

EXPORTED: tuple[Exported, ...] = ("float", "fp16", "int8", "partial")

OF_THE_RUN = ("run.json", "scan.json", "graph.json", "distributions.json")
"""Records that all plans of a run share."""

PLANS = "plans"
"""Folder of named plans. Each has a file NAME.json there, and a folder NAME for its other files."""

PLAN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}")


@dataclass(frozen=True)
class RunInfo:
    """Contents of run.json: what a run measures and how to repeat it.

    task: reference of the task, relative to the run directory if the file is inside it, absolute
        otherwise; `IN_PYTHON` for one made in a program.
    mode: mode of the scan.
    metric: name of the metric; `full_scale` is its largest value.
    source: name of the adapter of the model.
    splits: split -> number of batches.
    simulator: "name" and "reason" of the choice; None until one was used.
    samples: number of samples forwarded in total, over all verbs and resumed runs.
    seconds: as `commands` -> wall time of the last execution.
    commands: verb -> the command that last executed it; "verb NAME" for a named plan.
    settings: option -> value.
    environment: name -> value of hardware and software facts.
    warnings: what the reader must know.
    scales: groups of quantizers that share one range, in the scan and in exported files.
    residuals: whether quantizers for skip connections were added to the model.
    near: path from the run directory to the task's file, for a project that is moved as a whole.
    began: verb and options of the command that started the run, without its task and directory; for
        a task made in Python, the function and its keywords.
    seed: seed of everything drawn at random.
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

    def with_warnings(self, warnings: Iterable[str]) -> RunInfo:
        """Return the same contents with these warnings too, each once."""
        return replace(self, warnings=tuple(dict.fromkeys((*self.warnings, *warnings))))


QUANTIZED_RECORD = "quantized.json"
"""Name of the file that says how this tool quantized the float file of the run, if it did."""


class RunDir:
    """Paths and JSON records of one run directory, as seen by one of its plans.

    name: name of the plan; None for the one in plan.json.
    folder: where the plan's files are: the run directory itself, or plans/NAME.
    Raises NamesError for a name that no plan can have.
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
        """Return the path of the file with this name."""
        if self.name is not None and name == "plan.json":
            return self.path / PLANS / f"{self.name}.json"
        return self.path / name if name in OF_THE_RUN else self.folder / name

    def plan_names(self) -> tuple[str, ...]:
        """Return the names of the run's named plans in alphabetical order."""
        names = (file.stem for file in (self.path / PLANS).glob("*.json"))
        return tuple(sorted(filter(PLAN_NAME.fullmatch, names)))

    def plans(self) -> tuple[RunDir, ...]:
        """Return the run directory as seen by each of its plans, this one first."""
        names = (self.name, None, *self.plan_names())
        return tuple(RunDir(self.path, name) for name in dict.fromkeys(names))

    def step(self, verb: str) -> str:
        """Return the key of a verb in `RunInfo.commands` and `RunInfo.seconds`."""
        return verb if self.name is None else f"{verb} {self.name}"

    def info(self) -> RunInfo:
        """Read run.json. Raises RunDirError."""
        return self.read("run.json", RunInfo)

    def plan(self) -> Plan:
        """Read the plan. Raises RunDirError, and NamesError for an unknown name."""
        return self.read("plan.json", Plan)

    def bench(self) -> BenchResult:
        """Read the latencies, with the paths that the files have now, since a run may have been
        moved. Raises RunDirError if nothing was timed."""
        timed = self.read("bench.json", BenchResult)
        here = [self.file(Path(timing.file).name) for timing in timed.timings]
        timings = [
            replace(timing, file=str(file)) if file.exists() else timing
            for timing, file in zip(timed.timings, here, strict=True)
        ]
        return replace(timed, timings=tuple(timings))

    def place_of(self, file: Path, function: str) -> tuple[str, str]:
        """Return `task` and `near` of `RunInfo` for a task.

        file: absolute path.
        """
        own = self.path.resolve()
        if file.is_relative_to(own):
            return f"{file.relative_to(own)}:{function}", ""
        return f"{file}:{function}", os.path.relpath(file, own)

    def reference(self) -> str:
        """Return the reference of the run's task, valid from any folder and after the directory was
        moved.

        Raises RunDirError if the task no longer exists, or was made in Python.
        """
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
        # Older versions stored the reference as it was given, relative to a folder that they did
        # not record.
        places = (
            self.path / path,
            Path(path),
            self.path / (info.near or path),
            self.path / Path(path).name,
        )
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise RunDirError(
                f"Expected the task file of the run {self.path} at {path}, got nothing there; put "
                "it back, or put a "
                f"copy of it into {self.path}."
            )
        return f"{file}:{function}"

    def resume_command(self) -> str:
        """Return what resumes the scan or run of this directory.

        That is a command, with TASK in place of an unknown task, or a Python call for a task made
        in Python.
        """
        words, task = ["scan"], "TASK"
        is_begun = (self.path / "run.json").exists()
        if is_begun:
            info = self.info()
            if info.in_python:
                given = ["task", f"out={str(self.path)!r}", "resume=True", *info.began[1:]]
                return f"sensitivity.{info.began[0]}({', '.join(given)})"
            words, task = list(info.began) or words, self.reference()
        words = ["sensitivity", words[0], task, *words[1:], "--out", str(self.path)]
        return shlex.join([*words, "--resume"] if is_begun else words)

    def unfinished(self) -> str | None:
        """Return the warning about a scan or run that did not finish, or None if it did."""
        info = self.info()
        verb = info.began[0] if info.began else ""
        steps = ("scan", "plan", "export", "bench") if verb == "run" else ("scan",)
        missing = [step for step in steps if not (self.path / f"{step}.json").exists()]
        if not verb or verb in info.commands or not missing:
            return None
        return (
            f"This {verb} is not finished: no {', no '.join(missing)}. Continue with: "
            f"{self.resume_command()}"
        )

    def canonical(self) -> dict[Exported, Path]:
        """Return the canonical files that exist, by variant."""
        files = {variant: self.folder / f"model.{variant}.onnx" for variant in EXPORTED}
        return {variant: file for variant, file in files.items() if file.exists()}

    def models(self, runtime: str | None) -> dict[Exported, Path]:
        """Return the exported files by variant.

        runtime: takes the files lowered for this runtime where there are any; None takes canonical
            ones.
        Raises RunDirError if there is no float file.
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
                f"make it with: {self.command_for('export.json')}"
            )
        return files

    def read(self, name: str, kind: type[Record]) -> Record:
        """Read a record from its file.

        Raises RunDirError with how to make the file if it is missing or damaged, and NamesError for
        a plan with an unknown name.
        """
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
                "elsewhere."
            ) from error
        try:
            record = msgspec.json.decode(content, type=kind)
        except ValueError as error:
            raise self._damaged(name, str(error)) from error
        if not is_as_written(content):
            raise self._damaged(
                name, 'another checksum; if you changed it on purpose, remove its line "checksum"'
            )
        return record

    def read_if_there(self, name: str, kind: type[Record]) -> Record | None:
        """Read a record from its file, or return None if there is no such file."""
        return self.read(name, kind) if self.file(name).exists() else None

    def read_values(self, name: str) -> NDArray[np.float64]:
        """Read the table in an .npz file. Raises RunDirError if it is damaged."""
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
            raise self._damaged(name, "an incomplete archive of numbers") from error
        return table

    def write(self, name: str, record: Any) -> None:
        """Write a record to its file with a checksum. The file is written completely or not at
        all."""
        write_whole(
            self.file(name),
            with_checksum(msgspec.json.format(msgspec.json.encode(record), indent=2)),
        )

    def command_for(self, name: str) -> str:
        """Return what makes a file of this directory: a command, or a Python call for a task made
        in Python."""
        if name in OF_THE_RUN:
            return self.resume_command()
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
            f"{self.command_for(name)}"
        )

    def _damaged(self, name: str, got: str) -> RunDirError:
        file = self.file(name)
        if name == "run.json":  # without it, the command of the run is unknown
            again = f"sensitivity scan TASK --resume --out {shlex.quote(str(self.path))}"
        else:
            again = self.command_for(name)
        return RunDirError(
            f"Expected {file} to be as it was written, got {got}; make it again with: rm "
            f"{shlex.quote(str(file))}; {again}"
        )
