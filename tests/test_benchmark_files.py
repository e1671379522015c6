"""The benchmark of INT8 files on a tiny net. Its output is checked, and its times are not."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("modelopt")
ROOT = Path(__file__).parents[1]
MILLISECONDS = ("float_ms", "peer_ms", "canonical_ms", "ours_ms")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    from torch import nn

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("files")
    tiny = module.Net(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Conv2d(4, 5, 1)), 8)
    monkeypatch.setattr(module, "NETS", {"tiny": tiny})
    monkeypatch.setattr(module, "PEERS", {"onnxruntime": "quantize_static"})
    return module


def test_a_row_has_the_times_of_all_files_and_the_ratio_to_the_peer(
    bench: Any, tmp_path: Path
) -> None:
    (row,) = bench.rows_of("tiny", tmp_path, None, 3)
    assert (row["model"], row["runtime"], row["peer"]) == ("tiny", "onnxruntime", "quantize_static")
    assert all(row[name] > 0 for name in MILLISECONDS)
    assert row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"])
    assert row["low"] <= row["ratio"] <= row["high"]
    result = {"rows": [row], "command": "c", "load": 0.5, "environment": {"cpu": "one"}}
    assert f"| tiny | onnxruntime | {row['float_ms']:.2f} |" in bench.markdown(result)
