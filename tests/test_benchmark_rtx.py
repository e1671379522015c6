"""The table of what TensorRT-RTX builds, on the smallest model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sensitivity.runtimes.tensorrt_rtx_build import unavailable

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import rtx


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_every_file_of_the_demo_is_built_as_planned_and_a_missing_model_is_told(
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
