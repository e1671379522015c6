"""Pieces of a file on the simulated model's own values: where they differ, and nowhere else."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="runs a PyTorch model")
pytest.importorskip("modelopt", reason="runs a model calibrated by ModelOpt")

from support.models import Branches, Chain, batch, quantized, seeded  # noqa: E402

from sensitivity.exporters.torch_model import export_files  # noqa: E402
from sensitivity.exporters.writing import save  # noqa: E402
from sensitivity.onnx_graph import qdq  # noqa: E402
from sensitivity.onnx_graph.load import load_model  # noqa: E402
from sensitivity.onnx_graph.passes.initializers import add  # noqa: E402
from sensitivity.quantizers.base import layers  # noqa: E402
from sensitivity.quantizers.torch.modelopt import ModelOptModel  # noqa: E402


@pytest.fixture
def forced_shares(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("fidelity_forced").forced_shares


def exported(build: Any, folder: Path) -> tuple[ModelOptModel, Path]:
    source = ModelOptModel(quantized(seeded(build), batch()))
    files = export_files(source, batch(), layers(source.quantizers), [], folder, fingerprint="")
    return source, files["int8"]


def test_each_piece_of_a_file_computes_what_the_model_computes(
    forced_shares: Any, tmp_path: Path
) -> None:
    found = forced_shares(*exported(Branches, tmp_path), batch(seed=3))
    assert {"output_box", "output_classes"} <= found.keys()
    assert len(found) == 8  # what right reads is what left reads
    assert max(found.values()) < 1e-4


def test_a_fault_shows_where_it_is_and_not_behind_it(forced_shares: Any, tmp_path: Path) -> None:
    source, file = exported(Chain, tmp_path)
    model = load_model(file)
    (node,) = [node for node in model.graph if node.name == "conv5"]
    bias = qdq.constant(node.inputs[2])
    assert bias is not None
    node.replace_input_with(2, add(model.graph, "shifted", bias + bias.dtype.type(0.1)))
    found = forced_shares(source, save(model, tmp_path / "shifted.onnx"), batch(seed=3))
    (wrong,) = [name for name, share in found.items() if share > 1e-4]
    assert found[wrong] > 1
    fed = next(
        node for node in model.graph if node.name == "conv6.input_quantizer/QuantizeLinear"
    ).inputs[0]
    assert fed is not None
    assert wrong == fed.name
