"""Tests on a machine that has TensorRT. Elsewhere they are skipped with the reason, and no time is
made up."""

from pathlib import Path

import pytest
from support.qdq_chain import chain

from sensitivity.runtimes.tensorrt import TensorRt, TensorRtRtx
from sensitivity.runtimes.tensorrt_build import TensorRtSettings, build_plan, make_logger
from sensitivity.runtimes.trtexec import TrtExec
from sensitivity.testing.runtimes import RuntimeConformance

SETTINGS = TensorRtSettings(float_type="fp32")
RUNTIMES = {
    runtime.name: runtime
    for runtime in (TensorRt(SETTINGS), TensorRtRtx(SETTINGS), TrtExec(SETTINGS))
}
MISSING = {
    name: problem for name, runtime in RUNTIMES.items() if (problem := runtime.unavailable())
}

# one class each, so that a missing runtime is one skip and not fourteen
for name in RUNTIMES.keys() - MISSING:
    TF32 = {"runtime": RUNTIMES[name], "atol": 5e-2}
    globals()[f"Test_{name}"] = type(f"Test_{name}", (RuntimeConformance,), TF32)


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_runtime_is_tested_where_it_works(name: str) -> None:
    if name in MISSING:
        pytest.skip(MISSING[name])
    assert f"Test_{name}" in globals()


def test_rtx_builds_a_quantized_file_without_a_gpu(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    plan = build_plan(
        trt, make_logger(trt), chain(tmp_path / "int8.onnx", {0, 1, 2}), TensorRtSettings()
    )
    assert len(plan) > 1000
