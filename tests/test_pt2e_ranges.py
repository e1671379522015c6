"""Other ranges and corrected biases of PT2E graphs: switched, replayed, exported, taken back."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import Branches, batch, seeded
from support.pt2e_models import WeightedLayers, quantized_by_pt2e
from torchao.quantization.pt2e import MinMaxObserver
from torchao.quantization.pt2e.quantizer import QuantizationSpec

from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.verify import verify
from sensitivity.quantizers.alternatives import with_alternatives
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.torch.pt2e import Pt2eModel
from sensitivity.records import Range, names_of
from sensitivity.repairs.bias import bias_corrections
from sensitivity.simulators.toggle import ToggleSimulator
from sensitivity.simulators.torch.replay import ReplaySimulator

ASYMMETRIC = QuantizationSpec(
    torch.uint8, MinMaxObserver, quant_min=0, quant_max=255, qscheme=torch.per_tensor_affine
)
INPUT, WEIGHT = "left.input_quantizer", "left.weight_quantizer"


@pytest.fixture(scope="module")
def converted() -> Any:
    return quantized_by_pt2e(seeded(Branches), batch(6, 16))


@pytest.fixture(scope="module")
def asymmetric_graph() -> Any:
    return quantized_by_pt2e(seeded(Branches), batch(6, 16), quantizer=WeightedLayers(ASYMMETRIC))


@pytest.fixture
def source(converted: Any) -> Pt2eModel:
    return Pt2eModel(copy.deepcopy(converted))


@pytest.fixture
def asymmetric(asymmetric_graph: Any) -> Pt2eModel:
    return Pt2eModel(copy.deepcopy(asymmetric_graph))


def output(source: Any, inputs: Any, ranges: Any = (), off: Any = ()) -> dict[str, torch.Tensor]:
    with torch.no_grad(), source.with_ranges(ranges), source.disabled(off):
        return source.model(inputs)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_own_ranges_change_nothing_and_give_back_the_grid(
    source: Pt2eModel, asymmetric: Pt2eModel
) -> None:
    for model in (source, asymmetric):
        own = [model.range(name) for name in names_of(model.quantizers)]
        assert same(output(model, batch(6, 16)), output(model, batch(6, 16), own))
        for name, place in zip(names_of(model.quantizers), own, strict=True):
            grid = model.grid(name)
            highest = (grid.high - grid.zero_point) * grid.scale
            np.testing.assert_allclose(place.amax, highest, rtol=1e-6)
    low = asymmetric.range(INPUT).low
    grid = asymmetric.grid(INPUT)
    assert low == pytest.approx(-grid.zero_point * grid.scale[0])
    assert source.range(INPUT).low is None


def test_a_range_is_in_force_inside_the_with_and_taken_back_after_an_exception(
    source: Pt2eModel,
) -> None:
    before = source.fingerprint(), source.grid(INPUT).scale, output(source, batch(6, 16))
    with source.with_ranges([Range(INPUT, "mse", (0.25,))]):
        assert source.grid(INPUT).scale.tolist() == pytest.approx([0.25 / 127])
        assert source.range(INPUT).amax == (0.25,)
    with pytest.raises(KeyError), source.with_ranges([Range(INPUT, "mse", (0.25,))]):
        raise KeyError
    assert source.grid(INPUT).scale == before[1]
    assert source.fingerprint() == before[0]
    assert same(output(source, batch(6, 16)), before[2])


def test_an_asymmetric_range_gets_both_ends_and_16_bits_get_more_levels(
    source: Pt2eModel, asymmetric: Pt2eModel
) -> None:
    with asymmetric.with_ranges([Range(INPUT, "mse", (3.0,), low=-1.0)]):
        grid = asymmetric.grid(INPUT)
        assert (grid.zero_point, grid.low, grid.high) == (64, 0, 255)
        assert grid.scale.tolist() == pytest.approx([4 / 255])
    with asymmetric.with_ranges([replace(asymmetric.range(INPUT), bits=16)]):
        assert asymmetric.grid(INPUT).high == 65535
    with source.with_ranges([replace(source.range(INPUT), bits=16)]):
        assert (source.grid(INPUT).low, source.grid(INPUT).high) == (-32768, 32767)


@pytest.mark.parametrize("kind", ["source", "asymmetric"])
def test_other_ranges_come_from_the_float_values(kind: str, request: pytest.FixtureRequest) -> None:
    model: Pt2eModel = request.getfixturevalue(kind)
    inputs = batch(6, 16).clone()
    inputs[0, 0, 0, 0] = 1000.0
    found = model.other_ranges(["stem.0.input_quantizer", WEIGHT], lambda: model.model(inputs))
    assert [one.method for one in found] == [
        "percentile 99.9",
        "percentile 99.99",
        "entropy",
        "mse",
    ]
    assert {one.quantizer for one in found} == {"stem.0.input_quantizer"}, "weights per channel"
    usual = float(batch(6, 16).abs().max())
    assert found[0].amax[0] == pytest.approx(usual, rel=0.35)
    assert (found[0].low is None) == (kind == "source")


def test_a_weight_with_one_range_gets_one_per_output_channel(source: Pt2eModel) -> None:
    whole = Range(WEIGHT, "whole", (max(source.range(WEIGHT).amax),))
    own = source.range(WEIGHT).amax
    with source.with_ranges([whole]):
        module = source._placed[WEIGHT].module
        assert module.axis is None
        one = Pt2eModel.other_ranges(PerTensor(source), [WEIGHT], lambda: None)
    assert [(place.method, place.axis) for place in one] == [("per channel", 0)]
    np.testing.assert_allclose(one[0].amax, own, rtol=1e-5)


class PerTensor:
    """A model whose list of quantizers knows that the weight has one range."""

    def __init__(self, source: Pt2eModel) -> None:
        self.quantizers = tuple(replace(each, axis=None) for each in source.quantizers)
        self.range, self.grid, self.weights = source.range, source.grid, source.weights
        self.channel_axes = source.channel_axes


def test_corrected_biases_bring_channels_back_to_their_means(source: Pt2eModel) -> None:
    inputs, names = batch(32, 16, seed=5), names_of(source.quantizers)
    coarse = [
        replace(place, amax=tuple(8 * value for value in place.amax))
        for place in (source.range(name) for name in names if name.endswith("weight_quantizer"))
    ]
    found = bias_corrections(source, inputs, ranges=coarse)
    # `shared` is called twice; both calls need another correction.
    assert {one.quantizer.removesuffix(".weight_quantizer") for one in found} == {
        "stem.0",
        "left",
        "right",
        "up",
        "box",
        "classes",
    }
    wanted = output(source, inputs, off=names)["box"].mean((0, 2, 3))
    apart = [
        (output(source, inputs, ranges)["box"].mean((0, 2, 3)) - wanted).abs().max()
        for ranges in (coarse, [*coarse, *found])
    ]
    assert apart[1] < 0.02 * apart[0]


def repaired(source: Pt2eModel) -> tuple[Range, ...]:
    found = bias_corrections(source, batch(8, 16, seed=5))
    return (*found, replace(source.range(INPUT), method="mse", amax=(0.5,)))


def test_a_bias_goes_with_its_quantizer_and_replay_computes_any_mix(source: Pt2eModel) -> None:
    ranges = repaired(source)
    offered = with_alternatives(source, ranges)
    simulator, x = ReplaySimulator(offered), batch(6, 16, seed=8)
    keys = [one.key for one in ranges]
    variants = [frozenset(keys), frozenset(keys[:2]), frozenset({*keys, WEIGHT, INPUT})]
    expected = dict(ToggleSimulator(offered).outputs(x, variants))
    for index, found in simulator.outputs(x, variants):
        for name, value in found.items():
            torch.testing.assert_close(value, expected[index][name], rtol=1e-5, atol=1e-6)
    left = next(one for one in ranges if one.quantizer == WEIGHT)
    assert same(output(source, x, [left], [WEIGHT]), output(source, x, off=[WEIGHT]))


def test_files_have_the_ranges_and_biases_and_float_is_as_it_was(
    source: Pt2eModel, tmp_path: Path
) -> None:
    units, skip, inputs = layers(source.quantizers), ["shared"], batch(6, 16)
    with source.with_ranges(repaired(source)):
        files = export_files(source, inputs, units, skip, tmp_path, fingerprint="f00d")
        checks = verify(source, files, inputs, units, skip).files
    found = {check.variant: check for check in checks}
    for variant in ("int8", "partial"):
        assert all(layer.difference <= 1e-5 for layer in found[variant].layers if layer.difference)
        assert found[variant].rms <= 0.05 * found[variant].quantization_rms
    assert found["float"].quantizers == 0
    assert found["float"].rms < 1e-5
