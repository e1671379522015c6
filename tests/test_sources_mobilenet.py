"""MobileNetV1 x0.25 on ImageNet images: the same ranking through every source, by the benchmark's
own functions."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensitivity.opened import quantized_model

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CALIBRATION, IMAGES = 50, 24

pytestmark = pytest.mark.skipif(
    not os.environ.get("SENSITIVITY_ASSETS"),
    reason="SENSITIVITY_ASSETS does not name a folder with MobileNet weights",
)


@pytest.fixture(scope="module")
def bench() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        module = importlib.import_module("sources")
        patch.syspath_prepend(str(module.ROOT / "examples/01_mobilenet"))
        yield module


@pytest.fixture(scope="module")
def measured(bench: Any) -> dict[str, Any]:
    task = importlib.import_module("task")
    images = task.imagenet()
    calib = list(task.batches(images.take(range(CALIBRATION))))
    batches = list(task.batches(images.take(range(0, 1000, 1000 // IMAGES))))
    return {
        name: bench.measured(quantized_model(bench.made_by(name)(calib)), batches)
        for name in bench.SOURCES
    }


def test_every_source_sees_the_same_layers_and_torchs_are_replayed_bit_for_bit(
    measured: dict[str, Any],
) -> None:
    for name, one in measured.items():
        assert one["units"] == measured["modelopt"]["units"]
        assert len(one["units"]) == 28
        assert one["simulator"].startswith("replay: ")
        assert "bit for bit" in one["simulator"] or name == "onnx_qdq"
        assert one["warnings"] == []


def test_every_source_ranks_the_same_with_the_same_layer_first(
    bench: Any, measured: dict[str, Any]
) -> None:
    tops = {name: one["units"][int(np.argmax(one["noise"]))] for name, one in measured.items()}
    assert set(tops.values()) == {"stage1.1.0"}
    for one in measured.values():
        assert bench.compared(measured["modelopt"], one)["noise"] >= 0.95


def test_the_table_has_a_row_for_each_source(bench: Any, measured: dict[str, Any]) -> None:
    for one in measured.values():
        one["tau"] = bench.compared(measured["modelopt"], one)
    text = bench.table(
        {"sources": measured, "images": IMAGES, "command": "c", "environment": {"cpu": "x"}}
    )
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")][2:] == [
        f"| {name}" for name in bench.SOURCES
    ]
