"""Learned rounding: its values, and how it is switched, replayed, exported, applied and refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import models
from support.onnx_models import weight_of
from support.pq_models import quantized_by_pq
from support.shown import Shown
from torch import nn

from sensitivity.errors import ModelError
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.verify import verify
from sensitivity.quantizers.alternatives import with_alternatives
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.rounding import pack, unpack
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.quantizers.torch.pytorch_quantization import PytorchQuantizationModel
from sensitivity.records import Grid, Range
from sensitivity.repairs import descent, rounding
from sensitivity.repairs.bias import bias_corrections
from sensitivity.repairs.descent import learned_moves
from sensitivity.repairs.rounding import learned_roundings
from sensitivity.repairs.samples import Parts
from sensitivity.simulators.toggle import ToggleSimulator
from sensitivity.simulators.torch.replay import ReplaySimulator


@pytest.fixture
def source() -> ModelOptModel:
    """With weights on grids of about 4 bits, where rounding is what hurts."""
    return coarse(ModelOptModel(models.quantized(models.seeded(models.Kinds), models.batch(8, 16))))


def coarse(source: Any) -> Any:
    for quantizer in source.quantizers:
        if quantizer.role == "weight":
            source.model.get_submodule(quantizer.name)._buffers["_amax"] *= 16
    return type(source)(source.model)


def test_the_moves_of_a_small_weight_are_nearly_the_best_of_all() -> None:
    draw = np.random.default_rng(0)
    grid = Grid(np.float32([0.1, 0.2]), 0, -128, 127, 0)
    nearest = found = 0.0
    for _ in range(5):
        seen = torch.tensor(draw.normal(0, 1, (400, 7)) @ draw.normal(0, 1, (7, 7))).float()
        weight = torch.tensor(draw.normal(0, 0.3, (2, 7))).float()
        wanted = seen @ weight.T + torch.tensor([3.0, -1.0])
        moves = learned_moves(weight.numpy(), grid, seen.unsqueeze(1).numpy(), wanted.numpy())
        for row in range(2):
            steps = weight[row].numpy() / grid.scale[row]
            up = np.sign(steps - np.rint(steps)).astype(int)

            error = partial(spread_of_errors, seen, wanted[:, row], grid.scale[row], steps)
            every = [error(np.array(turned) * up) for turned in product((0, 1), repeat=7)]
            assert set(moves[row] * up) <= {0, 1}
            assert error(moves[row]) <= np.quantile(every, 0.05)
            nearest += error(np.zeros(7))
            found += error(moves[row])
    assert found < nearest / 1.5


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_moves_are_the_same_however_many_inputs_wait_for_an_update(monkeypatch, block) -> None:
    draw = np.random.default_rng(0)
    grid = Grid(draw.uniform(0.05, 0.2, 12).astype(np.float32), 0, -128, 127, 0)
    seen = draw.normal(0, 1, (2000, 150)) + draw.normal(0, 2, (2000, 1))
    weight = draw.normal(0, 0.3, (12, 75)).astype(np.float32)
    by_group = seen.astype(np.float32).reshape(2000, 2, 75)
    wanted = np.einsum("ngi,gci->ngc", by_group, weight.reshape(2, 6, 75)).reshape(2000, 12)
    expected = learned_moves(weight, grid, by_group, wanted)
    monkeypatch.setattr(descent, "BLOCK", block)
    assert np.array_equal(learned_moves(weight, grid, by_group, wanted), expected)
    assert np.count_nonzero(expected) > 20


def spread_of_errors(seen: Any, wanted: Any, scale: Any, steps: Any, move: Any) -> float:
    off = seen.numpy() @ ((np.rint(steps) + move) * scale) - wanted.numpy()
    return float(off.var())


def test_outputs_are_nearer_to_float_on_inputs_that_nothing_was_learned_from(source) -> None:
    inputs, other = models.batch(32, 16, seed=5), models.batch(32, 16, seed=6)
    before = source.fingerprint()
    found = learned_roundings(source, inputs)
    assert source.fingerprint() == before
    assert {one.quantizer.partition(".")[0]: one.method for one in found} == {
        "stem": "learned rounding, bias correction",
        "depthwise": "learned rounding, bias correction",
        "grouped": "learned rounding, bias correction",
        "up": "bias correction",
        "mixed": "learned rounding, bias correction",
        "last": "learned rounding, bias correction",
    }
    wanted = output(source, other, off=[each.name for each in source.quantizers])
    biased = bias_corrections(source, inputs)
    off_by = [
        float((output(source, other, ranges) - wanted).square().mean())
        for ranges in ((), biased, found)
    ]
    assert off_by[2] < 0.95 * off_by[1]


def test_what_is_learned_from_parts_of_a_batch_is_what_the_whole_teaches(source) -> None:
    inputs = models.batch(16, 16, seed=5)
    whole = learned_roundings(source, inputs)
    shown = Shown()
    found = learned_roundings(source, Parts([inputs[:8], inputs[8:]], shown))
    assert [(one.quantizer, one.rounding) for one in found] == [
        (one.quantizer, one.rounding) for one in whole
    ]
    assert shown == [[2, 2], [len(found), len(found)]], "parts in float, then layer after layer"


def test_weights_of_pytorch_quantization_are_rounded_as_those_of_modelopt(source) -> None:
    inputs = models.batch(32, 16, seed=5)
    model = quantized_by_pq(models.Kinds, models.batch(8, 16), like=models.seeded(models.Kinds))
    other = coarse(PytorchQuantizationModel(model))
    one, two = (
        {each.quantizer.partition(".")[0]: each for each in learned_roundings(model, inputs)}
        for model in (source, other)
    )
    assert one.keys() == two.keys()
    assert all(one[layer].rounding == two[layer].rounding for layer in one)


def output(source: Any, inputs: Any, ranges: Any = (), off: Any = ()) -> torch.Tensor:
    with torch.no_grad(), source.with_ranges(ranges), source.disabled(off):
        return source.model(inputs)


def test_ranges_and_biases_in_force_are_taken_up_and_layers_left_out_get_nothing(source) -> None:
    inputs = models.batch(8, 16, seed=5)
    wide = replace(source.range("stem.weight_quantizer"), method="wide")
    (biased,) = bias_corrections(source, inputs, ranges=[wide])[:1]
    assert biased.method == "wide, bias correction"
    found = learned_roundings(source, inputs, ranges=[biased], left_out=["last.weight_quantizer"])
    assert found[0].quantizer == "stem.weight_quantizer"
    assert found[0].method == "wide, learned rounding, bias correction"
    assert "last.weight_quantizer" not in {one.quantizer for one in found}


def test_a_rounding_goes_with_its_quantizer_and_is_taken_back_after_an_exception(source) -> None:
    (found, *_) = learned_roundings(source, models.batch(8, 16))
    layer, name = source.model.stem, found.quantizer
    own = layer.weight
    moves = unpack(found.rounding, own.shape)
    step = torch.tensor(source.grid(name).scale).reshape(-1, 1, 1, 1)

    def work() -> None:
        with source.with_ranges([found]):
            moved = layer.weight
            levels = torch.round(own.detach() / step) + torch.from_numpy(moves.copy())
            assert torch.equal(torch.round(moved.detach() / step), levels)
            assert torch.equal(moved.detach()[moves == 0], own.detach()[moves == 0])
            assert source.range(name).rounding == found.rounding
            with source.disabled([name]):
                assert layer.weight is own
            with source.with_ranges([replace(found, amax=(1.0,) * 8, rounding=None)]):
                assert layer.weight is own
            assert layer.weight is moved
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert layer.weight is own
    assert source.range(name).rounding is None


def test_a_change_for_good_stays_but_for_layers_that_are_left_out(source) -> None:
    inputs = models.batch(8, 16, seed=5)
    found = learned_roundings(source, inputs)
    wanted = output(source, inputs, found, ["mixed.weight_quantizer"])
    own = source.model.mixed.weight
    source.change(["mixed.weight_quantizer"], found)
    assert source.model.mixed.weight is own
    with torch.no_grad():
        assert torch.equal(source.model(inputs), wanted)


def test_replay_computes_any_mix_of_rounded_layers_as_the_model_does(source) -> None:
    inputs = models.batch(8, 16, seed=5)
    found = learned_roundings(source, inputs)
    offered = with_alternatives(source, found)
    keys = [one.key for one in found]
    every = [each.name for each in source.quantizers]
    variants = [
        frozenset(each) for each in ([], keys, keys[:2], [*keys, found[1].quantizer], every)
    ]
    replayed, toggled = (
        dict(simulator(offered).outputs(inputs, variants))
        for simulator in (ReplaySimulator, ToggleSimulator)
    )
    for index in range(len(variants)):
        assert torch.equal(replayed[index], toggled[index])
    assert not torch.equal(replayed[0], replayed[1])


def test_files_have_the_learned_levels_where_the_layer_is_quantized_and_float_as_it_was(
    source, tmp_path: Path
) -> None:
    inputs, units = models.batch(8, 16, seed=5), layers(source.quantizers)
    found = learned_roundings(source, inputs)
    with source.with_ranges(found):
        files = export_files(source, inputs, units, ["grouped"], tmp_path, fingerprint="x")
        verify(source, files, inputs, units, ["grouped"])
    rounding = {one.quantizer.partition(".")[0]: one.rounding for one in found}
    for variant, layer, is_moved in [
        ("int8", "stem", True),
        ("int8", "grouped", True),
        ("partial", "stem", True),
        ("partial", "grouped", False),
        ("float", "stem", False),
    ]:
        own = source.model.get_submodule(layer).weight.detach().numpy()
        given = weight_of(files[variant], layer)
        if not is_moved:
            assert np.array_equal(given, own), (variant, layer)
            continue
        step = source.grid(f"{layer}.weight_quantizer").scale.reshape(-1, 1, 1, 1)
        moves = unpack(rounding[layer], own.shape)
        assert np.array_equal(np.rint(given / step) - np.rint(own / step), moves), (variant, layer)


def test_a_rounding_of_another_weight_is_refused(source) -> None:
    one = source.range("stem.weight_quantizer")
    short = replace(one, rounding=pack(np.zeros(3, np.int8)))
    with pytest.raises(ModelError, match="a weight of 216 values, got one of 3; search for"):
        source.with_ranges([short]).__enter__()
    with pytest.raises(ModelError, match="got text that cannot be unpacked; search for the plan"):
        source.with_ranges([replace(one, rounding="none")]).__enter__()
    wrong = Range("stem.input_quantizer", "x", (1.0,), rounding=short.rounding)
    with pytest.raises(ModelError, match="a rounding for the weight of a convolution or linear"):
        source.with_ranges([wrong]).__enter__()
    assert source.model.stem.weight is dict(source.model.named_parameters())["stem.weight"]


@pytest.mark.parametrize("is_by_value", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_inputs_of_a_kernel_are_those_of_the_quantized_image(
    groups: int, is_by_value: bool
) -> None:
    layer = nn.Conv2d(4, 8, (3, 2), stride=2, padding=1, dilation=(1, 2), groups=groups)
    images = torch.randn(3, 4, 9, 10, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([0.5, 0.25, 0.125, 1.0]).reshape(1, 4, 1, 1)
    quantized = []

    def quantize(values: torch.Tensor) -> torch.Tensor:
        quantized.append(values.numel())
        return (values / steps).round() * steps

    unfolded = nn.functional.unfold(quantize(images), (3, 2), (1, 2), 1, 2)
    positions = np.array([0, 7, 24, 25, 71])
    expected = unfolded.transpose(1, 2).flatten(0, 1)[positions].reshape(5, groups, -1)
    reader = rounding._Reader(layer, quantize, is_by_value)
    sides = tuple(layer(images).shape[2:])
    assert torch.equal(reader.inputs_of(positions, images, sides), expected)
    assert quantized[1] == (5 * 4 * 6 if is_by_value else images.numel())
