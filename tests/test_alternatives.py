"""Other ranges for quantizers: they are set and restored, found by ModelOpt's calibrators, and
replayed as the model computes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import models
from support.replays import check
from torch import nn

from sensitivity.errors import ModelError, NamesError
from sensitivity.quantizers import ranges
from sensitivity.quantizers.alternatives import Alternatives, with_alternatives
from sensitivity.quantizers.ranges import lowest_divergence
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.records import Range
from sensitivity.simulators.choose import simulator_for
from sensitivity.simulators.toggle import ToggleSimulator
from sensitivity.simulators.torch.replay import ReplaySimulator
from sensitivity.testing.fakes import FakeModel

MSE = Range("stem.0.input_quantizer", "mse", (1.25,))
LOW = Range("stem.0.input_quantizer", "percentile 99.9", (0.5,))
LEFT = Range("left.input_quantizer", "mse", (0.75,))


@pytest.fixture
def source() -> ModelOptModel:
    return ModelOptModel(models.quantized(models.seeded(models.Branches), models.batch()))


def per_tensor(build, inputs) -> ModelOptModel:
    """Weights with one range per tensor."""
    import modelopt.torch.quantization as mtq

    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8, "axis": None}},
            {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8, "axis": None}},
        ],
        "algorithm": "max",
    }
    return ModelOptModel(mtq.quantize(models.seeded(build), config, lambda model: model(inputs)))


def test_ranges_are_those_asked_for_inside_the_with_and_the_own_ones_after_an_exception(source):
    before = {name: source.range(name) for name in (MSE.quantizer, LEFT.quantizer)}
    fingerprint = source.fingerprint()
    inside = []

    def work() -> None:
        with source.with_ranges([MSE, LEFT]):
            inside.extend(
                [source.range(MSE.quantizer).amax, source.grid(MSE.quantizer).scale.item()]
            )
            inside.append(source.fingerprint())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert inside[:2] == [MSE.amax, np.float32(1.25) / np.float32(127)]
    assert inside[2] != fingerprint
    assert {name: source.range(name) for name in before} == before
    assert source.fingerprint() == fingerprint


def test_a_weight_goes_from_one_range_to_one_per_channel_and_back():
    source = per_tensor(models.Branches, models.batch())
    names = ("left.weight_quantizer", "up.weight_quantizer", "classes.weight_quantizer")
    found = source.other_ranges(names, lambda: None)
    assert [(one.quantizer, one.method, one.axis, len(one.amax)) for one in found] == [
        ("left.weight_quantizer", "per channel", 0, 4),
        ("up.weight_quantizer", "per channel", 1, 8),
        ("classes.weight_quantizer", "per channel", 0, 5),
    ]
    # weights per channel
    own = ModelOptModel(models.quantized(models.seeded(models.Branches), models.batch()))
    with source.with_ranges(found):
        # ModelOpt has the scales of a transposed convolution on the input channels
        for one in (found[0], found[2]):
            np.testing.assert_array_equal(
                source.grid(one.quantizer).scale, own.grid(one.quantizer).scale
            )
        assert [source.grid(one.quantizer).axis for one in found] == [0, 1, 0]
        weight = source.model.left.weight
        expected = own.model.left.weight_quantizer(weight)
        assert torch.equal(source.model.left.weight_quantizer(weight), expected)
    assert source.grid("left.weight_quantizer").axis is None
    assert source.grid("left.weight_quantizer").scale.shape == (1,)


def test_a_grouped_transposed_convolution_stays_per_tensor():
    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 4, 2, 2, groups=2)

        def forward(self, x):
            return self.up(x.repeat(1, 2, 1, 1)[:, :4])

    source = per_tensor(Up, models.batch())
    assert source.other_ranges(["up.weight_quantizer"], lambda: None) == ()


def test_ranges_of_activations_come_from_what_the_quantizer_gets_in_float(source):
    x = models.batch(8, 32, seed=3)
    x[0, 0, 0, 0] = 50.0  # one value far out, that clipping should pay for

    def forward() -> None:
        with torch.no_grad():
            source.model(x)

    found = {one.method: one for one in source.other_ranges([MSE.quantizer], forward)}
    assert set(found) == {"percentile 99.9", "percentile 99.99", "mse", "entropy"}
    (amax,) = found["percentile 99.9"].amax
    assert amax == pytest.approx(np.quantile(x.abs().numpy(), 0.999), abs=50 / 2048)
    assert all(one.amax[0] < 51 for one in found.values())
    assert source.range(MSE.quantizer).method == "own"
    assert not source.model.stem[0].input_quantizer._forward_pre_hooks


@pytest.mark.parametrize("first", [0.0, 1e-12, 1e-3], ids=["all 0", "tiny", "small"])
def test_a_first_batch_of_small_values_makes_no_huge_histogram(source, first, monkeypatch):
    x = models.batch(8, 32, seed=3)
    batches = (x * first, x, torch.full_like(x, np.inf))
    bins = []
    fit = ranges.lowest_error

    def counted(counts, edges, levels):
        bins.append(len(counts))
        return fit(counts, edges, levels)

    monkeypatch.setattr(ranges, "lowest_error", counted)

    def forward() -> None:
        with torch.no_grad():
            list(map(source.model, batches))

    found = {one.method: one for one in source.other_ranges([MSE.quantizer], forward)}
    assert max(bins) <= 2 * ranges.MOST_BINS
    seen = torch.cat([x * first, x]).abs().numpy()
    (amax,) = found["percentile 99.9"].amax
    assert amax == pytest.approx(np.quantile(seen, 0.999), abs=float(seen.max()) / 1000)
    assert 0 < found["mse"].amax[0] <= seen.max() * 1.01


def test_what_no_batch_reaches_and_what_is_per_channel_already_get_no_other_range(source):
    assert (
        source.other_ranges(["left.input_quantizer", "left.weight_quantizer"], lambda: None) == ()
    )


def test_a_range_for_a_quantizer_that_has_none_is_refused(source):
    with pytest.raises(
        NamesError, match=r"got 'stem.0.inptu_quantizer'.*Close names: stem.0.input_quantizer"
    ):
        source.with_ranges([Range("stem.0.inptu_quantizer", "mse", (1.0,))])
    source.model.left.input_quantizer._num_bits = (4, 3)
    with pytest.raises(
        ModelError, match=r"Expected left.input_quantizer to quantize to one integer grid"
    ):
        source.with_ranges([LEFT])


def test_a_model_whose_ranges_cannot_be_changed_is_reported():
    fake = FakeModel({"a": 0.1})
    assert with_alternatives(fake, ()) is fake
    with pytest.raises(
        ModelError, match="Expected a model whose ranges can be changed, got one of fake"
    ):
        with_alternatives(fake, [MSE])


def test_switches_put_a_range_in_place_and_a_disabled_quantizer_has_none(source):
    offering = Alternatives(source, [MSE, LOW, LEFT])
    x = models.batch(seed=1)
    quantizer = source.model.stem[0].input_quantizer
    with source.with_ranges([MSE]):
        expected = quantizer(x)
    with offering.disabled([MSE.key, LOW.key]):  # the first offered counts
        assert torch.equal(quantizer(x), expected)
    with offering.disabled([MSE.key, MSE.quantizer]):
        assert torch.equal(quantizer(x), x)
    assert offering.grid(LOW.key).scale.item() == np.float32(0.5) / np.float32(127)


@pytest.mark.parametrize("own", [False, True], ids=["grids", "own modules"])
def test_replay_of_other_ranges_equals_the_model_that_has_them_bit_for_bit(source, own):
    weights = [one.name for one in source.quantizers if one.role == "weight"]
    variants = [
        frozenset(names)
        for names in (
            [],
            [MSE.key],
            [LOW.key, LEFT.key],
            [MSE.key, *weights],
            [LEFT.key, LEFT.quantizer],
        )
    ]
    offering = Alternatives(source, [MSE, LOW, LEFT])
    inputs = models.batch(seed=7)
    check(offering, ReplaySimulator(offering, own=own), inputs, variants)
    with source.with_ranges([LOW, LEFT]):
        ((_, expected),) = ToggleSimulator(source).outputs(inputs, [frozenset()])
    replayed = dict(ReplaySimulator(offering).outputs(inputs, [frozenset([LOW.key, LEFT.key])]))
    assert torch.equal(replayed[0]["classes"], expected["classes"])


def test_per_channel_weights_are_replayed_too():
    source = per_tensor(models.Chain, models.batch())
    found = source.other_ranges(
        [one.name for one in source.quantizers], lambda: source.model(models.batch())
    )
    offering = Alternatives(source, found)
    channels = [one.key for one in found if one.method == "per channel"]
    assert len(channels) == 11
    simulator = simulator_for(offering, models.batch(seed=7))
    assert simulator.name == "replay"
    check(
        offering,
        simulator,
        models.batch(seed=7),
        [frozenset(), frozenset(channels[:3]), frozenset(channels)],
    )


@pytest.mark.parametrize("levels", [127, 255], ids=["signed", "unsigned"])
@pytest.mark.parametrize("bins", [2048, 2500], ids=["as it starts", "grown"])
def test_the_search_by_entropy_finds_what_modelopt_s_own_finds(levels, bins):
    from modelopt.torch.quantization.calib.histogram import _compute_amax_entropy

    draw = np.random.default_rng(bins + levels)
    drawn = {
        "normal": draw.normal(size=5000),
        "relu": np.maximum(draw.normal(size=5000), 0),
        "outlier": np.append(draw.normal(size=5000), 60.0),
        "few": draw.normal(size=40),
    }
    for name, values in drawn.items():
        counts, edges = np.histogram(np.abs(values), bins)
        theirs = _compute_amax_entropy(counts.copy(), edges, 8, levels == 255, ranges.STRIDE)
        assert np.float32(lowest_divergence(counts, edges, levels)) == theirs.numpy(), name
