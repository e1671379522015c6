"""Writes a plan as another tool's own settings, in a file of the run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sensitivity.errors import ExportError
from sensitivity.exporters.configs.base import Config, ConfigWriter, NamedPlan
from sensitivity.exporters.configs.operations import operations_of
from sensitivity.exporters.verification import Verification
from sensitivity.files import write_whole
from sensitivity.quantizers.base import form_of
from sensitivity.records import Plan
from sensitivity.registry import load
from sensitivity.reporting.number_formats import planned_quantizers
from sensitivity.run_dir import RunDir, RunInfo


@dataclass(frozen=True)
class WrittenConfig:
    """The settings of another tool as written.

    file: path of the file.
    config: its text, how to apply it, and where the tool deviates from the plan.
    """

    file: Path
    config: Config

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines that the command line prints about it."""
        return (f"{self.file}: apply it with {self.config.apply}", *self.config.notes)


def has_files_of(run_dir: RunDir, plan: Plan) -> bool:
    """Return whether the exported files of the directory belong to this plan."""
    verified = run_dir.read_if_there("export.json", Verification)
    every = {"float", "int8", "partial"} <= run_dir.canonical().keys()
    return verified is not None and verified.is_of(plan) and every


def write_tool_config(run_dir: RunDir, writer: ConfigWriter) -> WrittenConfig:
    """Write the settings of one tool.

    If the writer reads operations, the exported files must belong to the plan. Raises ExportError
    if the tool would not do what the plan says.
    """
    config = writer.write(named_plan(run_dir, writer))
    file = run_dir.file(writer.file)
    write_whole(file, config.text.encode())
    return WrittenConfig(file, config)


def named_plan(run_dir: RunDir, writer: ConfigWriter) -> NamedPlan:
    """Return the plan of a run directory in the names that the writer reads."""
    info, plan = run_dir.info(), run_dir.plan()
    left_out = frozenset(plan.quantizers)
    quantizers = tuple(planned_quantizers(info.quantizers, plan))
    if writer.reads == "modules":
        _check_has_modules(info, writer)
        formats = {
            of_format.quantizer: of_format
            for of_format in plan.format_ranges
            if of_format.bits or of_format.fp8
        }
        return NamedPlan((), quantizers, left_out, formats)
    operations = operations_of({str(name): file for name, file in run_dir.canonical().items()})
    return NamedPlan(operations, quantizers, left_out)


def _check_has_modules(info: RunInfo, writer: ConfigWriter) -> None:
    if form_of(load("quantizers", info.source)) == "onnx":
        raise ExportError(
            f"Expected a run of a PyTorch model for the settings of {writer.name}, which names "
            "modules, got one of a Q/DQ ONNX file; choose a tool that reads ONNX files, such as "
            "ort."
        )
