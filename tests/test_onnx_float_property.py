"""For any network and any way to quantize it, float is the network that was quantized, or the file
is refused by name."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.onnx_quantizers import inputs, quantizers
from support.random_graphs import RandomGraph

from sensitivity.opened import quantized_model
from sensitivity.quantizers.onnx.model import OnnxModel

GRAPHS = int(os.environ.get("SENSITIVITY_RANDOM_GRAPHS", "4"))
"""Random networks for each quantizer."""


@pytest.mark.parametrize("quantizer", sorted(quantizers()))
@pytest.mark.parametrize("seed", range(GRAPHS))
def test_float_is_the_network_that_was_quantized(tmp_path: Path, quantizer: str, seed: int) -> None:
    logging.disable(logging.WARNING)
    original = RandomGraph(seed, (13, 17, 21)[seed % 3]).save(tmp_path / "float.onnx")
    quantizers()[quantizer](original, tmp_path / "int8.onnx")
    if not any(
        node.op_type == "QuantizeLinear" for node in onnx.load(tmp_path / "int8.onnx").graph.node
    ):
        pytest.skip("this tool left all of this network in float")
    source: Any = quantized_model(OnnxModel(tmp_path / "int8.onnx", float_path=original))
    findings = source.float_findings(inputs(2))
    assert [finding.code for finding in findings] == ["float-proved"], findings
    assert source.remaining() == ()
