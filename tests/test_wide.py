"""Activations of some layers in 16 bits: switched and taken back, replayed, exported, planned."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import models
from support.onnx_models import float_file, images, static_file
from support.replays import check

from sensitivity.journal.lines import RangeTried, made_range
from sensitivity.quantizers.alternatives import Alternatives
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.records import Range
from sensitivity.search.wide import WIDE_BITS, wide_range
from sensitivity.simulators.onnx.replay import OnnxReplay
from sensitivity.simulators.onnx.whole import WholeFile
from sensitivity.simulators.torch.replay import ReplaySimulator


@pytest.fixture
def source() -> ModelOptModel:
    return ModelOptModel(models.quantized(models.seeded(models.Branches), models.batch()))


def test_a_range_of_16_bits_is_another_range_than_the_same_with_8() -> None:
    own = Range("a", "own", (1.0,))
    assert wide_range(own) == Range("a", "own", (1.0,), bits=16)
    assert wide_range(own).key != own.key
    wide = wide_range(own)
    assert made_range(RangeTried(wide.key, **asdict(wide))) == wide


def test_torch_quantizers_take_16_bits_inside_the_with_only(source: ModelOptModel) -> None:
    name = "stem.0.input_quantizer"
    module, x = source.model.get_submodule(name), models.batch(seed=1)
    own, before = source.range(name), module(x)
    with source.with_ranges([wide_range(own)]):
        grid, wide = source.grid(name), module(x)
    assert (grid.high, source.grid(name).high) == (32767, 127)
    assert torch.equal(module(x), before)
    inside = x.clamp(-own.amax[0], own.amax[0])
    step = own.amax[0] / 32767
    assert (wide - inside).abs().max() <= step * 0.51 < (before - inside).abs().max()


def test_replay_of_16_bits_is_the_model_that_has_them_bit_for_bit(source: ModelOptModel) -> None:
    wide = [wide_range(source.range(f"{one}.input_quantizer")) for one in ("stem.0", "left")]
    offering = Alternatives(source, wide)
    offered = [one for one in offering.quantizers if one.replaces]
    assert {(one.bits, one.format) for one in offered} == {(WIDE_BITS, "INT16")}
    keys = [one.key for one in wide]
    variants = [frozenset(names) for names in ([], keys, keys[:1], [keys[0], wide[0].quantizer])]
    check(offering, ReplaySimulator(offering), models.batch(seed=7), variants)


def outputs(simulator: Any, variant: frozenset[str], x: Any) -> np.ndarray:
    ((_, found),) = simulator.outputs(x, [variant])
    return np.array(found)


@pytest.mark.parametrize("opset", [13, 21])
def test_uses_of_a_file_take_16_bits_as_the_edited_file_and_replay_do(
    opset: int, tmp_path: Path
) -> None:
    unquantized = float_file(tmp_path / "net.onnx", opset)
    quantized = static_file(unquantized, tmp_path / "net.qdq.onnx")
    source = OnnxQdqModel(OnnxModel(quantized, float_path=unquantized))
    names = [one.name for one in source.quantizers if one.role == "input"]
    x = {"x": images(4, seed=3)}
    wide = [wide_range(source.range(name)) for name in names]
    offering = Alternatives(source, wide)
    replay, keys = OnnxReplay(offering), frozenset(one.key for one in wide)
    with source.with_ranges(wide):
        edited = source.model.without(frozenset())
        whole = outputs(WholeFile(source), frozenset(), x)
        assert all(source.grid(name).high in (32767, 65535) for name in names)
    np.testing.assert_array_equal(outputs(replay, keys, x), whole)
    domains = {node.domain for node in edited.graph if node.op_type == "QuantizeLinear"}
    assert domains == ({"", "com.microsoft"} if opset == 13 else {""})
    unquantized_activations = outputs(replay, frozenset(names), x)
    near = np.abs(whole - unquantized_activations).max()
    assert near < 0.1 * np.abs(outputs(replay, frozenset(), x) - unquantized_activations).max()
