"""Writes the plan's file with a description of each layer in its nodes, for viewers such as
Netron."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sensitivity.errors import RunDirError
from sensitivity.exporters.writing import save
from sensitivity.measure.scan import Scan
from sensitivity.onnx_graph.load import load_model
from sensitivity.records import Effect
from sensitivity.reporting.formats import MetricFormat
from sensitivity.reporting.number_formats import plan_formats
from sensitivity.run_dir import RunDir, RunInfo
from sensitivity.steps.config import has_files_of

FILE = "model.netron.onnx"


def described_file(run_dir: RunDir) -> Path:
    """Write a copy of model.partial.onnx whose nodes describe their layers.

    A description holds the format in the plan, the effect and the rank. Viewers show it and
    runtimes ignore it. Raises RunDirError if the files of the plan do not exist.
    """
    plan, info = run_dir.plan(), run_dir.info()
    if not has_files_of(run_dir, plan):
        raise RunDirError(
            f"Expected the exported files of the plan in {run_dir.folder}, got none, or those of "
            f"another plan; run: {run_dir.command_for('export.json')}"
        )
    effects = {effect.unit: effect for effect in run_dir.read("scan.json", Scan).effects}
    formats = plan_formats(info.units, info.quantizers, plan)
    descriptions = dict[str, str]()
    for unit in info.units:
        description = _description(formats[unit.name], effects.get(unit.name), info)
        descriptions |= dict.fromkeys(unit.layers or (unit.name,), description)
    return _described(run_dir.canonical()["partial"], run_dir.folder / FILE, descriptions)


def _description(format_name: str, effect: Effect | None, info: RunInfo) -> str:
    """Return text such as "INT8; left out alone +22.0 pt [17.7, 26.1] of top-1, rank 1 of 10"."""
    if effect is None:
        return format_name
    metric = MetricFormat(info.metric, info.full_scale)
    change = f"{metric.effect(effect)} {metric.interval(effect.effect)}".rstrip()
    rank = f"rank {effect.rank} of {len(info.units)}"
    return f"{format_name}; left out alone {change} of {info.metric}, {rank}"


def _described(file: Path, out: Path, descriptions: Mapping[str, str]) -> Path:
    model = load_model(file)
    for node in model.graph.all_nodes():
        if node.name is not None and node.name in descriptions:
            node.doc_string = descriptions[node.name]
    return save(model, out)
