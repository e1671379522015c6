"""The plan's file with what is known of each layer in its nodes, for viewers such as Netron."""

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
    """Write model.partial.onnx once more, each layer's node with a description: what the plan runs
    it in, its effect and its rank. Viewers show it; runtimes do not read it.

    Raises RunDirError where the files of the plan are not there.
    """
    plan, info = run_dir.plan(), run_dir.info()
    if not has_files_of(run_dir, plan):
        raise RunDirError(
            f"Expected the exported files of the plan in {run_dir.folder}, got none, or those of "
            f"another plan; run: {run_dir.makes('export.json')}"
        )
    effects = {effect.unit: effect for effect in run_dir.read("scan.json", Scan).effects}
    formats = plan_formats(info.units, info.quantizers, plan)
    told = dict[str, str]()
    for unit in info.units:
        said = _said(formats[unit.name], effects.get(unit.name), info)
        told |= dict.fromkeys(unit.layers or (unit.name,), said)
    return _described(run_dir.canonical()["partial"], run_dir.folder / FILE, told)


def _said(format_name: str, effect: Effect | None, info: RunInfo) -> str:
    """Such as "INT8; left out alone +22.0 pt [17.7, 26.1] of top-1, rank 1 of 10"."""
    if effect is None:
        return format_name
    metric = MetricFormat(info.metric, info.full_scale)
    change = f"{metric.effect(effect)} {metric.interval(effect.effect)}".rstrip()
    rank = f"rank {effect.rank} of {len(info.units)}"
    return f"{format_name}; left out alone {change} of {info.metric}, {rank}"


def _described(file: Path, out: Path, told: Mapping[str, str]) -> Path:
    model = load_model(file)
    for node in model.graph.all_nodes():
        if node.name is not None and node.name in told:
            node.doc_string = told[node.name]
    return save(model, out)
