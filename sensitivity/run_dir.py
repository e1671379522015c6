"""A run directory: what each step leaves for the next, and for the reader."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from sensitivity.errors import RunDirError
from sensitivity.files import write_whole
from sensitivity.records import Mode, Plan, Quantizer, Unit

Record = TypeVar("Record")
Exported = Literal["float", "fp16", "int8", "partial"]
LOWERED = {"tensorrt_rtx": "tensorrt", "trtexec": "tensorrt"}
"""Runtimes that take the files of another."""

EXPORTED: tuple[Exported, ...] = ("float", "fp16", "int8", "partial")


@dataclass(frozen=True)
class RunInfo:
    """run.json: what a run is of and how to repeat it.

    commands: verb -> the command that last ran it. simulator: its name and the reason it was chosen; None until used.
    scales: quantizers that share one range, in the scan and in what is exported.
    residuals: whether quantizers for skip connections were added to the model.
    samples: forwarded in all, over all verbs and resumes. seconds: verb -> wall time of its last run.
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


class RunDir:
    """Paths and JSON records of one run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path / "journal.jsonl"

    def info(self) -> RunInfo:
        return self.read("run.json", RunInfo, "sensitivity scan TASK --out")

    def plan(self) -> Plan:
        return self.read("plan.json", Plan, "sensitivity plan")

    def canonical(self) -> dict[Exported, Path]:
        """The canonical files that are there, by variant."""
        files = {variant: self.path / f"model.{variant}.onnx" for variant in EXPORTED}
        return {variant: file for variant, file in files.items() if file.exists()}

    def models(self, runtime: str | None) -> dict[Exported, Path]:
        """The exported files by variant, those lowered for `runtime` where there are any; None for canonical ones.

        Raises RunDirError where the float one is missing.
        """
        files = self.canonical()
        if runtime is not None:
            name = LOWERED.get(runtime, runtime)
            lowered = {variant: self.path / f"model.{variant}.{name}.onnx" for variant in EXPORTED}
            files |= {variant: file for variant, file in lowered.items() if file.exists()}
        if "float" not in files:
            raise RunDirError(
                f"Expected {self.path / 'model.float.onnx'} to exist, got nothing there; "
                f"make it with: sensitivity export {self.path}"
            )
        return files

    def read(self, name: str, kind: type[Record], verb: str) -> Record:
        """A record from its file. Raises RunDirError that says which verb makes it."""
        file = self.path / name
        if not file.exists():
            raise RunDirError(f"Expected {file} to exist, got nothing there; make it with: {verb} {self.path}")
        try:
            return msgspec.json.decode(file.read_bytes(), type=kind)
        except msgspec.MsgspecError as error:
            raise RunDirError(
                f"Expected {file} to be as it was written, got {error}; make it again with: {verb} {self.path}"
            ) from error

    def read_if_there(self, name: str, kind: type[Record]) -> Record | None:
        """A record from its file; None where that step has not been done."""
        return self.read(name, kind, "sensitivity run TASK --out") if (self.path / name).exists() else None

    def write(self, name: str, record: Any) -> None:
        """A record to its file, whole or not at all."""
        write_whole(self.path / name, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
