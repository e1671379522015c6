"""Random networks through quantizers: the float variant is the network that was quantized."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from support.onnx_models import run_file
from support.onnx_random import (
    QUANTIZERS,
    Recipe,
    network,
    quantized_by_onnxruntime,
    recipes,
    samples,
)

from sensitivity.errors import OnnxFileError
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.records import Finding

TOLERANCE = 1e-4
"""The largest difference, as a fraction of the largest value of the output."""


@pytest.mark.parametrize("how", QUANTIZERS)
@given(recipe=recipes())
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_float_is_the_network_that_was_quantized_or_it_is_refused_by_name(
    how: str, recipe: Recipe
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(network(recipe), source)
        quantized_by_onnxruntime(source, path, recipe, how)
        x = samples(recipe)
        if not any(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node):
            with pytest.raises(OnnxFileError, match="to hold Q/DQ pairs"):
                OnnxModel(path, float_path=source)
            return
        model = OnnxModel(path, float_path=source)
        assert not OnnxQdqModel(model).remaining()
        assert np.array_equal(model.run(None, {"x": x})[0], run_file(path, x)), (
            "quantized it is the file"
        )
        with model.skipping(frozenset(use.name for use in model.uses)):
            (off,) = model.run(None, {"x": x})
        refused = any(finding.severity == "error" for finding in float_findings(model, x))
    expected = run_of(network(recipe), x)
    assert refused or np.abs(off - expected).max() <= TOLERANCE * max(np.abs(expected).max(), 1e-6)


def float_findings(model: OnnxModel, x: np.ndarray) -> tuple[Finding, ...]:
    """ONNX Runtime's quantizer also removes the Relu where a branch of an If reads past the
    pair."""
    return OnnxQdqModel(model).float_findings({"x": x})


def run_of(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder, "float.onnx"))
        return run_file(Path(folder, "float.onnx"), x)
