"""`run` and `export` build the plan's files where TensorRT-RTX is installed; else they say so."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from support.commands import verb

from sensitivity.exporters.verification import Verification
from sensitivity.records import BuiltLayer
from sensitivity.run_dir import RunDir
from sensitivity.runtimes import tensorrt_rtx_build as rtx
from sensitivity.steps.report import report_data

TASK = Path(__file__).parent / "tasks" / "tiny.py"
PLANNED = {"stem": "int8", "conv": "float", "short": "int8", "fc": "int8"}
real = pytest.mark.skipif(rtx.unavailable() is not None, reason=str(rtx.unavailable()))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a net with a residual Add whose last convolution stays in float."""
    out = tmp_path_factory.mktemp("run") / "residual"
    options = ("--skip", "conv", "--rounds", "3", "--threads", "1", "--quantize-residuals")
    assert verb("run", f"{TASK}:residual", "--max-drop", "99pt", *options, "--out", out) == 0
    return out


@real
def test_a_run_builds_the_plans_file_as_planned_and_shows_it_in_layers_and_report(
    done: Path,
) -> None:
    (built,) = RunDir(done).read("export.json", Verification).engines.values()
    assert built.layers == tuple(
        BuiltLayer(name, planned, "int8" if planned == "int8" else "fp32")
        for name, planned in PLANNED.items()
    )
    assert built.kernels > built.requantize_kernels

    steps = pd.read_csv(done / "layers.csv", keep_default_na=False)
    plan = steps[(steps.variant == "partial") & (steps.rtx_planned != "")].set_index("onnx")
    assert dict(plan["rtx_planned"]) == PLANNED
    assert dict(plan["rtx_built"]) == {layer.layer: layer.built for layer in built.layers}
    assert set(steps[steps.variant != "partial"].rtx_built) == {""}

    assert report_data(done).engines == {"model.partial.onnx": built}
    assert "Structure of the TensorRT-RTX engine" in (done / "report.html").read_text()


@real
def test_an_export_for_tensorrt_builds_the_strongly_typed_file(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb("export", done, "--for", "tensorrt") == 0
    verification = RunDir(done).read("export.json", Verification)
    ((name, built),) = verification.engines.items()
    assert (name, verification.not_built) == ("model.partial.tensorrt.onnx", {})
    assert [layer.built for layer in built.layers] == ["int8", "fp16", "int8", "int8"]
    assert f"TensorRT-RTX {built.version} builds it for SM 89" in capsys.readouterr().out


def test_an_export_for_tensorrt_says_that_it_built_nothing_where_rtx_is_missing(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rtx, "MODULE", "no_such_module")
    assert verb("export", done, "--for", "tensorrt") == 0
    why = "no_such_module is not installed; run: pip install tensorrt-rtx"
    verification = RunDir(done).read("export.json", Verification)
    assert verification.engines == {}
    assert verification.not_built["model.partial.tensorrt.onnx"].startswith(why)
    assert f"not built: {why}" in " ".join(capsys.readouterr().out.split())
    assert verb("report", done) == 0
    assert f"was not built: {why}" in (done / "report.html").read_text()
