"""From the task file of a YOLO to verified files, in two units, since a scan of all layers would
take minutes without testing more."""

from __future__ import annotations

from pathlib import Path

from sensitivity.config import ScanSettings
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.verify import verify
from sensitivity.measure.scan import scan
from sensitivity.session import open_session
from sensitivity.tasks.base import Task


def whole_way(task: str, out: Path, stem: str, rest: str) -> Task:
    """Scan, export and verify; stem, rest: patterns of layers. The task."""
    halves = ScanSettings(task=task, group=(f"stem={stem}", f"rest={rest}"))
    with open_session(task, out, resume=False, choices=halves) as session:
        assert not any("dfl" in quantizer.name for quantizer in session.source.quantizers)
        assert {unit.name for unit in session.units} == {"stem", "rest"}
        effects = scan(session.study, "disable").effects
        assert {effect.unit for effect in effects} == {"stem", "rest"}
        made = (session.source, session.example, session.units, ["stem"])
        files = export_files(*made, out, fingerprint="tiny")
        source, example, units, skip = made
        checks = {
            check.variant: check for check in verify(source, files, example, units, skip).files
        }
        assert (
            checks["float"].quantizers
            == 0
            < checks["partial"].quantizers
            < checks["int8"].quantizers
        )
        if session.task.finish:
            finished = session.task.finish(files["partial"], example)
            assert set(finished) == {"model.partial.end2end.onnx"}
        return session.task
