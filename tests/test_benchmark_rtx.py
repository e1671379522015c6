"""The table of what TensorRT-RTX builds, on the smallest model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import models

from sensitivity.exporters.agreement import relative_rms
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.runtimes.tensorrt_rtx_build import unavailable

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import rtx, rtx_forms


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_every_file_of_the_demo_is_built_as_planned_and_a_missing_model_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rtx.md"
    absent = rtx.Model(f"{tmp_path / 'none.py'}:task", list)
    monkeypatch.setattr(rtx, "MODELS", {"demo": rtx.MODELS["demo"], "absent": absent})
    monkeypatch.setattr(sys, "argv", ["rtx.py", "--out", str(out)])
    rtx.main()
    text = out.read_text()
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| demo")]
    assert [line[1:6] for line in lines] == [
        [form, variant, "yes", in_int8, in_float]
        for form in ("canonical", "strongly typed")
        for variant, in_int8, in_float in (
            ("float", "-", "10 of 10"),
            ("int8", "10 of 10", "-"),
            ("partial", "8 of 8", "2 of 2"),
        )
    ]
    assert "absent is left out: Expected" in text
    assert "nothing here is a time" in text


def test_raised_channels_compute_the_same_on_one_scale(tmp_path: Path) -> None:
    inputs = models.batch(6, 8)
    source = ModelOptModel(models.quantized(models.seeded(models.Branches), inputs))
    units = layers(source.quantizers)
    canonical = export_files(source, inputs, units, [], tmp_path, fingerprint="")["int8"]
    changed = rtx_forms.raised_channels(load_model(canonical))
    convolutions = [node for node in changed.graph if node.op_type == "Conv"]
    scales = [qdq.pair_of(node.inputs[1]).scale for node in convolutions]  # type: ignore[union-attr]
    assert [scale.shape for scale in scales] == [()] * 6  # type: ignore[union-attr]
    raised = save(changed, tmp_path / "raised.onnx")
    expected, found = (rtx_forms._outputs(file, inputs) for file in (canonical, raised))
    float_ = rtx_forms._outputs(tmp_path / "model.float.onnx", inputs)
    own = relative_rms(expected, float_, float_)
    assert relative_rms(found, expected, float_) < 0.1 * own
